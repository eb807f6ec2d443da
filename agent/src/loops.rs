//! The loops of this host, one for each resource. They run for as long as the agent does, whatever its networks do meanwhile.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use wire_forward::{Forwarder, Tunnels};
use wire_kernel::{KernelDataplane, RouteForm};

use crate::{
    datapath::{Datapath, NetworkLoop},
    exit::Exit,
    firewall::{FirewallHandle, FirewallLoop},
    host_dataplane::HostDataplane,
    inherited::Inherited,
    pulse::{Part, Watchdog},
    reconcile_loop,
    settings::Settings,
    status::StatusWriter,
    upkeep::{FilesHandle, FilesLoop},
    verify::Compared,
};

/// The loops of this host.
#[derive(Clone)]
pub(crate) struct Loops {
    pub(crate) network: Datapath,
    pub(crate) firewall: FirewallHandle,
    pub(crate) files: FilesHandle,
    /// The tunnels that the loop of the network runs.
    pub(crate) tunnels: Tunnels,
    /// Is notified when addresses or links of the host have changed.
    pub(crate) underlay_changed: Arc<Notify>,
}

/// The time that a loop has for a comparison: iptables may wait for its lock, and a large network takes a while.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

impl Loops {
    /// Compares all resources with what the networks want, and changes nothing.
    pub(crate) async fn compare(&self) -> Compared {
        let (network, firewall, files) =
            tokio::join!(self.network.compare(PATIENCE), self.firewall.compare(PATIENCE), self.files.compare(PATIENCE));
        Compared { network, firewall, files }
    }

    /// Starts all loops. They write nothing before a network wants something. `kept` are the descriptors that an earlier run of the agent has
    /// left, `stored` those that systemd keeps for a later one.
    ///
    /// # Errors
    /// When there is no netlink, or no thread.
    pub(crate) fn start(
        settings: &Settings,
        (status, watchdog): (&StatusWriter, &Watchdog),
        Inherited { kept, stored }: Inherited,
    ) -> Result<Self, Exit> {
        let forwarder = Forwarder::new(kept);
        let tunnels = forwarder.tunnels();
        status.update(|seen| seen.tunnels = tunnels.clone());
        let kernel = KernelDataplane::open(RouteForm::default())?;
        let driver = HostDataplane { kernel, forwarder, without_vxlan: settings.forward.without_vxlan };
        let underlay_changed = Arc::new(Notify::new());
        let network = NetworkLoop::new(driver, status.clone(), stored, underlay_changed.clone());
        let heartbeat = watchdog.part(Part::Firewall);
        let firewall = FirewallLoop::new(settings.firewall.every, status.clone(), &heartbeat)?;
        Ok(Self {
            // It may wait for ever for a notification, but no call may block for ever.
            network: reconcile_loop::start("dataplane", network, Some(watchdog.part(Part::Dataplane)))?,
            firewall: reconcile_loop::start("firewall", firewall, Some(heartbeat))?,
            // A disk may take its time.
            files: reconcile_loop::start("files", FilesLoop::new(status.clone()), None)?,
            tunnels,
            underlay_changed,
        })
    }
}
