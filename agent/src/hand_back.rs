//! `wire-agent hand-back`: for those who go back to flanneld. Puts all routes into flannel's own form, and removes our firewall
//! (docs/adr/0002, docs/adr/0007).

use std::path::Path;

use wire_backends::{Identity, identify};
use wire_kernel::{NetlinkDataplane, OtherNamespaces, RouteForm};
use wire_net::{Prefix, chain};
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
/// [`Exit::AlreadyRunning`] while the agent runs, which would write its own form again; [`Exit::Unavailable`] if etcd does not answer,
/// [`Exit::NoCapability`], and [`Exit::No`] if something could not be written.
pub(crate) async fn run(etcd: EtcdFlags, run_dir: &Path) -> Result<(), Exit> {
    require_capability()?;
    let _lock = lock(run_dir)?;
    let config = config_command::stored(etcd).await.map_err(with_what_needs_no_etcd)?;
    let Identity { devices, marks, .. } = identify(&config).map_err(|error| Exit::NetworkConfig(chain(&error)))?;
    let networks: Vec<Prefix> = config.pools.iter().map(|(_, pool)| pool.network).collect();
    let devices = devices.iter().map(|(_, name)| *name).collect();
    let scope = Scope { devices, marks, parent: None, networks };
    let cannot = |error| Exit::Software(chain(&error));
    let mut dataplane = NetlinkDataplane::open(RouteForm::Plain).map_err(cannot)?;
    let have = dataplane.read(&scope).map_err(cannot)?;
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
        return Err(Exit::No(format!("not all routes could be written: {}; try again", chain(&error))));
    }
    remove_firewall()
}

/// Removes our firewall only.
///
/// # Errors
/// [`Exit::AlreadyRunning`] while the agent runs, [`Exit::NoCapability`], and [`Exit::No`] if something of it remains.
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

/// Adds the remedy that needs no etcd: flanneld can use the routes as they are, but our firewall would drop packets of its new peers.
fn with_what_needs_no_etcd(error: Exit) -> Exit {
    let Exit::Unavailable(why) = error else { return error };
    Exit::Unavailable(format!(
        "{why}; nothing was changed. flanneld works with the routes as they are, but not with wire-agent's firewall: \
         before you start flanneld, remove the firewall with `wire-agent hand-back --firewall-only`, which needs no \
         etcd"
    ))
}
