//! `wire-agent hand-back`: all routes in flannel's own form, and no firewall rule of ours, for those who go back to flanneld
//! (docs/adr/0002, docs/adr/0007).

use wire_backends::{Dataplane, FirewallDataplane, NetState, NetlinkDataplane, Reconciler, RouteForm, Scope, devices};
use wire_lease::{Family, Prefix, chain};

use crate::{cli::EtcdFlags, config_command, exit::Exit, run::require_capability};

/// Writes the routes in place, without a gap; an agent that runs beside leaves them so: they do the same. The firewall's rules it
/// would put back: whom they let in, flanneld would not keep up to date.
///
/// # Errors
/// [`Exit::Unavailable`] when etcd does not answer, [`Exit::NoCapability`], and [`Exit::No`] where something could not be written.
pub(crate) async fn run(etcd: EtcdFlags) -> Result<(), Exit> {
    require_capability()?;
    let config = config_command::stored(etcd).await?;
    let devices = devices(&config).map_err(|error| Exit::NetworkConfig(chain(&error)))?;
    let networks: Vec<Prefix> = config.pools.iter().map(|(_, pool)| pool.network).collect();
    let scope = Scope { devices: devices.iter().map(|(_, name)| *name).collect(), parent: None, networks };
    let cannot = |error| Exit::Software(chain(&error));
    let mut dataplane = NetlinkDataplane::open(RouteForm::Plain).map_err(cannot)?;
    let have = dataplane.read(&scope).map_err(cannot)?;
    let attempts = dataplane.hand_back(&have);
    let written = attempts.iter().filter(|attempt| attempt.is_ok()).count();
    println!("{written} routes are in flannel's form");
    if let Some(error) = attempts.into_iter().find_map(Result::err) {
        return Err(Exit::No(format!("not all routes could be written: {}; try again", chain(&error))));
    }
    remove_firewall()
}

fn remove_firewall() -> Result<(), Exit> {
    let dataplane = FirewallDataplane::open(Family::ALL.to_vec()).map_err(|error| Exit::Software(chain(&error)))?;
    let report = Reconciler::new(dataplane, Scope::default()).round(&NetState::default());
    println!("{} tables and chains of the firewall are removed", report.removed);
    match report.failures.first() {
        Some(failure) => Err(Exit::No(format!("not all of the firewall could be removed: {failure}; try again"))),
        None => Ok(()),
    }
}
