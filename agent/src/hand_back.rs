//! `wire-agent hand-back`: for those who go back to flanneld. Puts all routes into flannel's own form, and removes our firewall
//! (docs/adr/0002, docs/adr/0007).

use std::path::Path;

use wire_backends::{Identity, identify};
use wire_kernel::{KernelDataplane, RouteForm};
use wire_net::{LinkName, NetworkName, Prefix};
use wire_state::{
    DesiredForm, DesiredNet, Driver as _, ObservedKind, ObservedNet, Owner, PerNamespace, Reconciler, Scope,
};

use crate::{
    cli::EtcdFlags,
    config_command,
    exit::Exit,
    firewall,
    host_dataplane::HostDataplane,
    output::report,
    run::{lock, require_capability},
};

/// Rewrites the routes in place, without a gap, and removes the firewall, because flanneld would not add new peers to it.
///
/// # Errors
/// [`Exit::LockHeld`] while the agent runs, which would write its own form again; [`Exit::HandBackStore`] if etcd does not answer,
/// [`Exit::NoCapability`], and [`Exit::RoutesLeft`] or [`Exit::FirewallLeft`] if something could not be written.
pub(crate) async fn run(etcd: EtcdFlags, run_dir: &Path) -> Result<(), Exit> {
    require_capability()?;
    let _lock = lock(run_dir)?;
    let network = etcd.network.clone();
    let config = config_command::stored(etcd).await.map_err(before_any_change)?;
    let Identity { devices, marks, .. } = identify(&config)?;
    let networks: Vec<Prefix> = config.pools.iter().map(|(_, pool)| pool.network).collect();
    let devices = devices.iter().map(|(_, name)| *name).collect();
    let scope = Scope { devices, marks, networks, ..Scope::default() };
    let scope = PerNamespace::host(scope);
    let mut driver = HostDataplane::without_tunnels(KernelDataplane::open(RouteForm::Plain)?);
    let desired = for_flanneld(driver.read(&scope)?);
    let mut reconciler = Reconciler::new(driver, scope);
    let round = reconciler.round(&desired);
    // It reads what is there now, also after a failure.
    reconciler.preview(&desired)?;
    let plain = reconciler.cached().map(plain_routes).unwrap_or_default();
    report(format_args!("{plain} routes are in flannel's form"));
    if let Some(failure) = round.failures.first() {
        return Err(Exit::RoutesLeft { failure: failure.to_string() });
    }
    remove_firewall(network)
}

/// What was found of ours, with plain routes and without TUN devices: flanneld creates its TUN device itself, and would choose another
/// name beside ours.
fn for_flanneld(mut found: PerNamespace<ObservedNet>) -> PerNamespace<DesiredNet> {
    for (_, net) in found.iter_mut() {
        let tuns = net.links.iter().filter(|(_, link)| matches!(link.kind, ObservedKind::Tun(_)));
        let tuns: Vec<LinkName> = tuns.map(|(name, _)| *name).collect();
        tuns.into_iter().for_each(|name| net.forget_link(name));
    }
    let mut desired = found.as_desired();
    for (_, net) in desired.iter_mut() {
        net.route_form = DesiredForm::Plain;
        // They stay as they are: flanneld has its own.
        net.settings.clear();
    }
    desired
}

/// The number of our routes that are plain.
fn plain_routes(found: &PerNamespace<ObservedNet>) -> usize {
    let routes = found.iter().flat_map(|(_, net)| net.routes.values());
    routes.filter(|route| route.owner == Owner::Ours && !route.uses_nexthop).count()
}

/// Removes our firewall only.
///
/// # Errors
/// [`Exit::LockHeld`] while the agent runs, [`Exit::NoCapability`], and [`Exit::FirewallLeft`] if something of it remains.
pub(crate) fn firewall(run_dir: &Path, network: NetworkName) -> Result<(), Exit> {
    require_capability()?;
    let _lock = lock(run_dir)?;
    remove_firewall(network)
}

fn remove_firewall(network: NetworkName) -> Result<(), Exit> {
    let removed = firewall::remove(network)?;
    report(format_args!("{removed} tables and chains of the firewall are removed"));
    Ok(())
}

/// Gives an error of etcd the remedy that needs no etcd.
fn before_any_change(error: Exit) -> Exit {
    let Exit::Store(error) = error else { return error };
    Exit::HandBackStore(error)
}
