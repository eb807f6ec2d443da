//! The addresses at which etcd is reached. No lease and no network by name may contain one: its routes would send traffic for etcd into the
//! overlay, and no agent would learn when the lease or the network is gone.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet};
use wire_lease::Admission;
use wire_net::{DualStack, Prefix};
use wire_store::EndpointAddresses;

use crate::{host::Host, last_known::LastKnownFile, named::Named, ports::Ports, settings::Settings};

/// The time a start waits for names. Until they are resolved, the addresses known before are used.
const PATIENCE: Duration = Duration::from_secs(2);

/// The interval at which names are resolved again.
const AGAIN: Duration = Duration::from_secs(60);

impl<P: Ports> Host<P> {
    /// Resolves etcd's members, as far as that is possible now. If one cannot be resolved, the addresses of the last
    /// time are protected too.
    pub(crate) async fn look_for_endpoints(&mut self, last_known: &LastKnownFile) {
        let EndpointAddresses { found, is_partial } =
            self.ports.endpoint_addresses(&self.settings.etcd, PATIENCE).await;
        self.endpoints.extend(found);
        if is_partial {
            let kept = last_known.load(self.ports.disk()).ok().flatten();
            self.endpoints.extend(kept.into_iter().flat_map(|(kept, _)| kept.endpoints));
        }
    }

    /// The addresses that no lease may contain, without those in this host's own subnet, which are in the overlay on
    /// purpose.
    pub(crate) fn endpoints(&self) -> Vec<IpAddr> {
        outside(&self.endpoints, &self.state.subnet)
    }
}

fn outside(endpoints: &BTreeSet<IpAddr>, own: &DualStack<Prefix>) -> Vec<IpAddr> {
    let local = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified() || own.iter().any(|(_, own)| own.contains(*ip));
    endpoints.iter().copied().filter(|ip| !local(ip)).collect()
}

/// Follows the names of etcd's members until the returned task is dropped. Their former addresses stay protected too.
pub(super) fn follow<P: Ports>(
    ports: P,
    settings: Arc<Settings>,
    own: DualStack<Prefix>,
    (admission, named): (watch::Sender<Admission>, Option<Named<P::Store>>),
) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            tokio::time::sleep(AGAIN).await;
            let found = outside(&ports.endpoint_addresses(&settings.etcd, AGAIN).await.found, &own);
            admission.send_if_modified(|admission| {
                let new: Vec<IpAddr> = found.iter().copied().filter(|ip| !admission.endpoints.contains(ip)).collect();
                admission.endpoints.extend(&new);
                !new.is_empty()
            });
            named.iter().for_each(|named| named.note_endpoints(&found));
        }
    });
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_on_this_host_or_in_its_own_subnet_are_no_matter() {
        let endpoints =
            ["127.0.0.1", "::1", "10.5.7.2", "fd00:5:0:7::2", "10.9.0.5", "fd00::5"].map(|ip| ip.parse().unwrap());
        let own = DualStack { v4: Some("10.5.7.0/24".parse().unwrap()), v6: Some("fd00:5:0:7::/64".parse().unwrap()) };
        let kept = outside(&endpoints.into(), &own);
        assert_eq!(kept, ["10.9.0.5", "fd00::5"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    }
}
