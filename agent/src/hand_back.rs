//! `wire-agent hand-back`: for those who go back to flanneld. Puts all routes into flannel's own form, and removes our firewall
//! (docs/adr/0002, docs/adr/0007).

use std::path::Path;

use wire_backends::{Identity, identify};
use wire_kernel::{NetlinkDataplane, OtherNamespaces, RouteForm};
use wire_net::Prefix;
use wire_state::{KernelOp, ObservedKind, Owner, Scope};

use crate::{
    cli::EtcdFlags,
    config_command,
    exit::Exit,
    firewall,
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
    let config = config_command::stored(etcd).await.map_err(before_any_change)?;
    let Identity { devices, marks, .. } = identify(&config)?;
    let networks: Vec<Prefix> = config.pools.iter().map(|(_, pool)| pool.network).collect();
    let devices = devices.iter().map(|(_, name)| *name).collect();
    let scope = Scope { devices, marks, parent: None, networks };
    let mut dataplane = NetlinkDataplane::open(RouteForm::Plain)?;
    let have = dataplane.read(&scope)?;
    let attempts = dataplane.hand_back(&have);
    let written = attempts.iter().filter(|attempt| attempt.is_ok()).count();
    report(format_args!("{written} routes are in flannel's form"));
    // flanneld creates its TUN device itself, and would choose another name beside ours.
    let tuns =
        have.links.iter().filter(|(_, link)| link.owner == Owner::Ours && matches!(link.kind, ObservedKind::Tun(_)));
    let deletions: Vec<KernelOp> = tuns.map(|(name, _)| KernelOp::DeleteLink(*name)).collect();
    let mut attempts = attempts;
    attempts.extend(dataplane.apply(&deletions.iter().collect::<Vec<_>>(), &OtherNamespaces::default()));
    if let Some(error) = attempts.into_iter().find_map(Result::err) {
        return Err(Exit::RoutesLeft(error));
    }
    remove_firewall()
}

/// Removes our firewall only.
///
/// # Errors
/// [`Exit::LockHeld`] while the agent runs, [`Exit::NoCapability`], and [`Exit::FirewallLeft`] if something of it remains.
pub(crate) fn firewall(run_dir: &Path) -> Result<(), Exit> {
    require_capability()?;
    let _lock = lock(run_dir)?;
    remove_firewall()
}

fn remove_firewall() -> Result<(), Exit> {
    let removed = firewall::remove()?;
    report(format_args!("{removed} tables and chains of the firewall are removed"));
    Ok(())
}

/// Gives an error of etcd the remedy that needs no etcd.
fn before_any_change(error: Exit) -> Exit {
    let Exit::Store(error) = error else { return error };
    Exit::HandBackStore(error)
}
