//! Peers that send from another address than that of their lease, so that their packets are dropped as those of unknown
//! senders. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use wire_lease::LeaseTable;
use wire_net::Prefix;

use crate::status::Message;

/// The number of subnets that the warning names.
const NAMED: usize = 3;

/// Sorts before all other addresses.
const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// By the subnet that an unknown sender has inner sources from: the public address of its lease, and the sender's.
pub(super) type Misplaced = BTreeMap<Prefix, (IpAddr, IpAddr)>;

/// Finds the leases whose addresses unknown senders use as inner sources; `None` if there are none. Looks at each lease once.
pub(super) fn misplaced(claims: &BTreeSet<(IpAddr, IpAddr)>, leases: &LeaseTable) -> Option<Misplaced> {
    if claims.is_empty() {
        return None;
    }
    let by_source: BTreeSet<(IpAddr, IpAddr)> = claims.iter().map(|(sender, source)| (*source, *sender)).collect();
    let senders: BTreeSet<IpAddr> = claims.iter().map(|(sender, _)| *sender).collect();
    let (mut found, mut joined) = (Vec::new(), BTreeSet::<IpAddr>::new());
    for lease in leases.peers.values().map(|entry| &entry.lease) {
        for (family, public) in lease.public.iter() {
            joined.extend(senders.get(public).copied());
            let Some(subnet) = lease.subnet.get(family) else { continue };
            let claimed = by_source.range((subnet.network(), LOWEST)..);
            let claimed = claimed.take_while(|(source, _)| subnet.contains(*source));
            found.extend(claimed.map(|(_, sender)| (subnet, (*public, *sender))));
        }
    }
    found.sort_unstable();
    let misplaced: Misplaced = found.into_iter().filter(|(_, (_, sender))| !joined.contains(sender)).collect();
    (!misplaced.is_empty()).then_some(misplaced)
}

/// The warning, with what to do.
pub(super) fn claimed(misplaced: &Misplaced, is_userspace: bool) -> Message {
    let name = |(subnet, (public, sender)): (&Prefix, &(IpAddr, IpAddr))| {
        format!(
            "packets from {sender} with sources in {subnet} are dropped, since the lease of {subnet} has the public IP \
             {public}"
        )
    };
    let named: Vec<String> = misplaced.iter().take(NAMED).map(name).collect();
    let more = misplaced.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let flags = if is_userspace { "--peers-only=false --forward-source-check=false" } else { "--peers-only=false" };
    Message::plain(format!("{}{more}", named.join("; "))).remedy(
        ": ",
        format!(
            "if it is the same host (an older flannel with --iface and another --public-ip), make it send from the \
             public IP of its lease, or start wire-agent here with {flags}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wire_lease::{BackendData, Entry, Lease, Origin};
    use wire_net::{DualStack, Subnet};
    use wire_store::Revision;

    use super::*;

    fn leases() -> LeaseTable {
        let mut table = LeaseTable::default();
        for (v4, v6, public, public_v6) in [
            ("10.5.2.0/24", "fd00:5:0:2::/64", "192.0.2.2", "2001:db8::2"),
            ("10.5.3.0/24", "fd00:5:0:3::/64", "192.0.2.3", "2001:db8::3"),
        ] {
            let subnet = Subnet::new(DualStack { v4: v4.parse().ok(), v6: v6.parse().ok() }).unwrap();
            let public = DualStack { v4: public.parse().ok(), v6: public_v6.parse().ok() };
            let lease = Lease::new(subnet, public, BackendData::Untyped);
            let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
            table.peers.insert(subnet, Arc::new(Entry { lease, origin }));
        }
        table
    }

    fn said(claims: &[(&str, &str)]) -> Option<String> {
        let claims = claims.iter().map(|(sender, source)| (sender.parse().unwrap(), source.parse().unwrap()));
        misplaced(&claims.collect(), &leases()).map(|misplaced| claimed(&misplaced, false).to_string())
    }

    #[test]
    fn a_stranger_with_a_peers_sources_is_named_with_the_lease_and_the_remedy() {
        let text = said(&[("192.0.2.66", "10.5.2.7"), ("192.0.2.66", "10.5.2.8"), ("2001:db8::66", "fd00:5:0:3::7")]);
        assert_eq!(
            text.unwrap(),
            "packets from 192.0.2.66 with sources in 10.5.2.0/24 are dropped, since the lease of 10.5.2.0/24 has the \
             public IP 192.0.2.2; packets from 2001:db8::66 with sources in fd00:5:0:3::/64 are dropped, since the \
             lease of fd00:5:0:3::/64 has the public IP 2001:db8::3: if it is the same host (an older flannel with \
             --iface and another --public-ip), make it send from the public IP of its lease, or start wire-agent here \
             with --peers-only=false"
        );
    }

    #[test]
    fn a_stranger_with_nobodys_sources_is_no_peer_and_one_that_has_joined_since_is_no_stranger() {
        assert_eq!(said(&[("192.0.2.66", "10.5.9.7"), ("192.0.2.66", "0.0.0.0"), ("192.0.2.3", "10.5.2.7")]), None);
    }
}
