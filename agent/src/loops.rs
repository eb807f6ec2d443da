//! The loops of this host, one for each resource. They run as long as the agent, also while a network is joined anew.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use wire_forward::Tunnels;

use crate::{
    datapath::{NetworkHandle, NetworkLoop},
    exit::Exit,
    firewall::{FirewallHandle, FirewallLoop},
    host::Host,
    notify::Stored,
    ports::{NetworkPort, Ports},
    pulse::Part,
    reconcile_loop,
    upkeep::{FilesHandle, FilesLoop},
    verify::Compared,
};

/// The loops of this host.
#[derive(Clone)]
pub(crate) struct Loops {
    pub(crate) network: NetworkHandle,
    pub(crate) firewall: FirewallHandle,
    pub(crate) files: FilesHandle,
    /// The tunnels that the loop of `Network` runs.
    pub(crate) tunnels: Tunnels,
    /// Is notified when addresses or links of the host have changed.
    pub(crate) underlay_changed: Arc<Notify>,
}

/// The time that a loop has for a comparison: iptables may wait for its lock, and a large network takes a while.
pub(crate) const COMPARE_TIMEOUT: Duration = Duration::from_secs(30);

impl Loops {
    /// Compares all resources with what the networks want, and changes nothing.
    pub(crate) async fn compare(&self) -> Compared {
        let Self { network, firewall, files, tunnels: _, underlay_changed: _ } = self;
        let (network, firewall, files) = tokio::join!(
            network.compare(COMPARE_TIMEOUT),
            firewall.compare(COMPARE_TIMEOUT),
            files.compare(COMPARE_TIMEOUT)
        );
        Compared { network, firewall, files }
    }

    /// Waits until the thread of a loop has died, and names the loop.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn died(&self) -> &'static str {
        let Self { network, firewall, files, tunnels: _, underlay_changed: _ } = self;
        tokio::select! {
            () = network.died() => "the dataplane",
            () = firewall.died() => "the firewall",
            () = files.died() => "the loop of the files",
        }
    }

    /// Starts all loops. They write nothing before a network has set its share. `stored` are the descriptors that systemd stores for a later
    /// run.
    ///
    /// # Errors
    /// When a netlink socket or a thread cannot be created.
    pub(crate) fn start<P: Ports>(host: &Host<P>, stored: Stored) -> Result<Self, Exit> {
        let Host { ports, settings, status, watchdog, .. } = host;
        let driver = ports.open_network(settings.forward.without_vxlan)?;
        let tunnels = driver.tunnels();
        status.update(|seen| seen.tunnels = tunnels.clone());
        let underlay_changed = Arc::new(Notify::new());
        let network = NetworkLoop::new(ports.clone(), driver, status.clone(), stored, underlay_changed.clone());
        let heartbeat = watchdog.part(Part::Firewall);
        let firewall = FirewallLoop::new(ports.clone(), settings, status.clone(), &heartbeat)?;
        Ok(Self {
            // Watched: the thread may wait for a notification without limit, but must not block in a call.
            network: reconcile_loop::start(ports, "dataplane", network, Some(watchdog.part(Part::Dataplane)))?,
            firewall: reconcile_loop::start(ports, "firewall", firewall, Some(heartbeat))?,
            // Not watched: a slow disk may block it.
            files: reconcile_loop::start(ports, "files", FilesLoop::new(ports.clone(), status.clone()), None)?,
            tunnels,
            underlay_changed,
        })
    }
}
