//! Our entries in the kernel, and their removal in a bounded time.

use std::time::Duration;

use wire_backends::Segment;
use wire_kernel::{KernelDataplane, RouteForm};
use wire_net::{LinkName, chain};
use wire_state::{DataplaneError, Marks, PerNamespace, Reconciler, Scope};

use crate::{
    docker_opts::SubnetEnv, files::RealDisk, host_dataplane::HostDataplane, limited::within, named::Document,
    output::report, settings::Settings, state::State,
};

/// The longest time that a removal takes. `drain` has two, and the package gives all of it a minute (`postrm`).
const LONGEST: Duration = Duration::from_secs(10);

/// Removes all entries of ours within a scope from the kernel by one round with an empty desired state. Returns what failed.
pub(super) fn remove_from_kernel(scope: Scope) -> Vec<String> {
    match within(LONGEST, move || round_of(scope)) {
        Some(Ok((removed, failures))) => {
            report(format_args!("kernel: {removed} devices and entries removed"));
            failures
        }
        Some(Err(error)) => vec![chain(&error)],
        None => {
            let waited = humantime::format_duration(LONGEST);
            vec![format!("the kernel has not removed our devices and entries for {waited}")]
        }
    }
}

fn round_of(scope: Scope) -> Result<(usize, Vec<String>), DataplaneError> {
    let round = kernel(scope)?.round(&PerNamespace::default());
    Ok((round.removed, round.failures.iter().map(ToString::to_string).collect()))
}

/// The devices of networks by name, and the ports of containers on them.
pub(super) fn scope_of_networks(document: &Document) -> Scope {
    let vnis = document.held().map(|(_, kept)| kept.record.vni);
    let devices = vnis.flat_map(|vni| [Segment::bridge(vni), Segment::overlay(vni)]).chain(document.ports());
    Scope { devices: devices.collect(), ..Scope::default() }
}

/// All of ours in the kernel.
pub(super) fn scope_left(settings: &Settings, state: &State, document: &Document) -> Scope {
    let marks = Marks { macs: state.macs.values().copied().collect(), ..Marks::default() };
    let of_networks = scope_of_networks(document).devices;
    let devices = state.macs.keys().filter_map(|name| name.parse::<LinkName>().ok()).chain(of_networks).collect();
    // Routes that are on no device of ours are found by their network: the blackhole of our own subnet, and those to hosts on the
    // underlay's link. After a reboot there is neither a file nor a route.
    let env = SubnetEnv::read(&RealDisk, &settings.folders.subnet_file);
    let networks = env.map_or(state.subnet, |env| env.networks);
    let networks = networks.iter().chain(state.subnet.iter()).map(|(_, prefix)| *prefix).collect();
    Scope { devices, marks, networks, ..Scope::default() }
}

pub(super) fn kernel(scope: Scope) -> Result<Reconciler<HostDataplane>, DataplaneError> {
    let driver = HostDataplane::without_tunnels(KernelDataplane::open(RouteForm::default())?);
    Ok(Reconciler::new(driver, PerNamespace::host(scope)))
}
