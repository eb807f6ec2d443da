//! The rules that concern several entries: what two leases cannot both have.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::{Family, MacAddr, Prefix, Subnet};

use super::{Admission, mac_of, refuse};
use crate::{Entry, Lease, Refusal, RefusalKind};

/// The prefixes, MACs and public addresses of the leases admitted so far.
#[derive(Default)]
pub(super) struct Claims<'a> {
    /// Disjoint prefixes by their first address, each with its owner.
    prefixes: BTreeMap<(Family, u128), (Prefix, Owner<'a>)>,
    macs: BTreeMap<(Family, MacAddr), &'a Lease>,
    /// The public addresses with their owners. With a bounded range they may lie in the network outside the range,
    /// where leases of an older config may be, too.
    publics: BTreeMap<(Family, u128), Owner<'a>>,
}

#[derive(Clone, Copy)]
enum Owner<'a> {
    ThisHost,
    Peer(&'a Lease),
}

impl<'a> Claims<'a> {
    /// Starts with this host's own subnet, which is in the kernel: no peer may take over its routes, not even an older
    /// one. Nor may a peer take over the route to our public address.
    pub(super) fn of(admission: &Admission) -> Self {
        let mut claims = Self::default();
        for prefix in admission.own.iter().flat_map(Subnet::prefixes) {
            claims.prefixes.insert((prefix.family(), prefix.first_bits()), (prefix, Owner::ThisHost));
        }
        for (family, public) in admission.public.iter() {
            claims.publics.insert((family, Prefix::host(*public).first_bits()), Owner::ThisHost);
        }
        claims
    }

    /// Claims all that the entry needs, or nothing.
    pub(super) fn claim(&mut self, entry: &'a Entry) -> Result<(), Refusal> {
        let lease = &entry.lease;
        for prefix in lease.subnet.prefixes() {
            self.check_prefix(prefix).map_err(refuse(RefusalKind::Overlap))?;
            if let Some(mac) = mac_of(lease, prefix.family()) {
                self.check_mac(lease, prefix.family(), mac).map_err(refuse(RefusalKind::Mac))?;
            }
        }
        for (_, public) in lease.public.iter() {
            self.check_public(lease, *public).map_err(refuse(RefusalKind::PublicIp))?;
        }
        for prefix in lease.subnet.prefixes() {
            let family = prefix.family();
            self.prefixes.insert((family, prefix.first_bits()), (prefix, Owner::Peer(lease)));
            if let Some(mac) = mac_of(lease, family) {
                self.macs.entry((family, mac)).or_insert(lease);
            }
        }
        for (family, public) in lease.public.iter() {
            self.publics.entry((family, Prefix::host(*public).first_bits())).or_insert(Owner::Peer(lease));
        }
        Ok(())
    }

    fn check_prefix(&self, prefix: Prefix) -> Result<(), String> {
        let family = prefix.family();
        let before = self.prefixes.range((family, 0)..=(family, prefix.last_bits())).next_back();
        match before.map(|(_, held)| held).filter(|(held, _)| held.overlaps(prefix)) {
            None => {}
            Some((held, Owner::ThisHost)) => return Err(format!("{prefix} overlaps {held}, this host's own subnet")),
            Some((_, Owner::Peer(peer))) => return Err(format!("{prefix} overlaps the older lease {}", peer.subnet)),
        }
        match self.publics.range((family, prefix.first_bits())..=(family, prefix.last_bits())).next() {
            None => Ok(()),
            Some((_, Owner::ThisHost)) => Err(format!("{prefix} holds this host's own public address")),
            Some((_, Owner::Peer(peer))) => {
                Err(format!("{prefix} holds the public address of the older lease {}", peer.subnet))
            }
        }
    }

    /// Refuses a public address that is reached through the overlay: packets to it would be encapsulated without end.
    fn check_public(&self, lease: &Lease, public: IpAddr) -> Result<(), String> {
        let address = Prefix::host(public);
        if let Some(own) = lease.subnet.prefixes().find(|prefix| prefix.covers(address)) {
            return Err(format!("{public} lies inside {own}, the lease's own subnet"));
        }
        let before = self.prefixes.range(..=(address.family(), address.first_bits())).next_back();
        match before.map(|(_, held)| held).filter(|(held, _)| held.covers(address)) {
            None => Ok(()),
            Some((held, Owner::ThisHost)) => Err(format!("{public} lies inside {held}, this host's own subnet")),
            Some((_, Owner::Peer(peer))) => Err(format!("{public} lies inside the older lease {}", peer.subnet)),
        }
    }

    /// Two leases of one host (an old one and the new one) may share a MAC; two hosts may not.
    fn check_mac(&self, lease: &Lease, family: Family, mac: MacAddr) -> Result<(), String> {
        match self.macs.get(&(family, mac)) {
            Some(older) if older.public.get(family) != lease.public.get(family) => {
                let owner = older.public.get(family).map_or_else(String::new, ToString::to_string);
                Err(format!("{mac} belongs to {owner} by the older lease {}", older.subnet))
            }
            _ => Ok(()),
        }
    }
}
