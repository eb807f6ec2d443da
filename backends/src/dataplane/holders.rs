//! Which links hold addresses inside a prefix: the bridges that containers are on.

use std::collections::{BTreeMap, BTreeSet};

use wire_lease::{Family, Prefix};

use super::{
    DataplaneError,
    decode::{self, Names},
    encode,
    read::link_by,
    socket::{Batch, Netlink},
};
use crate::{LinkKind, LinkName};

/// The links with an address inside one of `subnets` and a network on it. The overlay's own devices have none.
pub(crate) fn holders(netlink: &mut Netlink, subnets: &[Prefix]) -> Result<BTreeSet<LinkName>, DataplaneError> {
    let mut found = BTreeMap::new();
    for family in subnets.iter().map(|subnet| subnet.family()) {
        let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, family, 0);
        let inside = |body: &[u8]| {
            let (index, address, len) = decode::any_address(body)?;
            let is_network = len < Family::of(address).bits();
            let holds = is_network && subnets.iter().any(|subnet| subnet.contains(address));
            holds.then_some(index)
        };
        for index in netlink.dump("addresses", &request, inside)? {
            found.insert(index, link_by(netlink, None, index, &Names::new())?);
        }
    }
    let named = found.into_values().flatten().filter(|(_, link)| !matches!(link.kind, LinkKind::Vxlan(_)));
    Ok(named.map(|(name, _)| name).collect())
}
