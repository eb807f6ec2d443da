//! Reads flowtables (linux/netfilter/nf_tables.h).

use std::collections::BTreeMap;

use wire_net::LinkName;
use wire_state::{DataplaneError, Flowtable};

use super::{NFTABLES, Netfilter, TablePlace};
use wire_netlink::attribute::{attributes, text};

use crate::{
    decode::{attribute, be32, find},
    nfta::{
        NFTA_FLOWTABLE_FLAGS, NFTA_FLOWTABLE_HOOK, NFTA_FLOWTABLE_HOOK_DEVS, NFTA_FLOWTABLE_HOOK_PRIORITY,
        NFTA_FLOWTABLE_NAME, NFTA_FLOWTABLE_TABLE, NFTA_HOOK_DEV,
    },
};

/// `NFT_MSG_GETFLOWTABLE`.
const GET_FLOWTABLE: u16 = NFTABLES | 23;

impl Netfilter {
    /// The flowtables of a table of ours; empty on a kernel without flowtables.
    pub(crate) fn flowtables(&mut self, of: &TablePlace) -> Result<BTreeMap<String, Flowtable>, DataplaneError> {
        let found = self.dump("flowtables", GET_FLOWTABLE, &|| of.body(NFTA_FLOWTABLE_TABLE), |body| {
            of.has(body)?;
            flowtable(body)
        })?;
        Ok(found.into_iter().collect())
    }
}

fn flowtable(body: &[u8]) -> Option<(String, Flowtable)> {
    let hook = find(body, NFTA_FLOWTABLE_HOOK).unwrap_or_default();
    let priority = attribute(hook, NFTA_FLOWTABLE_HOOK_PRIORITY).and_then(be32);
    let flags = find(body, NFTA_FLOWTABLE_FLAGS).and_then(be32).unwrap_or_default();
    let flowtable =
        Flowtable { flags, priority: priority.map_or(0, u32::cast_signed), devices: devices(hook).collect() };
    Some((find(body, NFTA_FLOWTABLE_NAME).and_then(text)?.to_owned(), flowtable))
}

/// The links that a flowtable is hooked to.
fn devices(hook: &[u8]) -> impl Iterator<Item = LinkName> {
    let names = attribute(hook, NFTA_FLOWTABLE_HOOK_DEVS).into_iter().flat_map(attributes);
    names.filter_map(|(_, name)| link(name))
}

/// The one link that a chain is hooked to.
pub(super) fn device(hook: &[u8]) -> Option<LinkName> {
    attribute(hook, NFTA_HOOK_DEV).and_then(link)
}

fn link(name: &[u8]) -> Option<LinkName> {
    text(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_links_of_a_flowtable_and_of_a_chain_are_read() {
        let names = [encoded(1, b"docker0\0"), encoded(1, b"flannel.1\0")].concat();
        let hook = [encoded(1, &0_u32.to_be_bytes()), encoded(2, &0_u32.to_be_bytes()), encoded(3, &names)];
        let body =
            [vec![crate::netfilter::INET, 0, 0, 0], encoded(2, b"overlay\0"), encoded(3, &hook.concat())].concat();
        let (name, found) = flowtable(&body).unwrap();
        let devices = ["docker0", "flannel.1"].map(|name| name.parse().unwrap()).into();
        assert_eq!((name.as_str(), found), ("overlay", Flowtable { devices, ..Flowtable::default() }));
        let chain = [encoded(2, &(-1_i32).to_be_bytes()), encoded(3, b"flannel.1\0")].concat();
        assert_eq!(device(&chain), Some("flannel.1".parse().unwrap()));
    }
}
