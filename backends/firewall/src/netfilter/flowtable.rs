//! Reads flowtables (linux/netfilter/nf_tables.h).

use std::collections::BTreeMap;

use wire_net::LinkName;
use wire_state::{DataplaneError, Flowtable};

use super::{INET, NAME, NFTABLES, Netfilter, ours};
use wire_netlink::attribute::{attributes, text};

use crate::{
    decode::{be32, find},
    encode::Body,
};

/// `NFT_MSG_GETFLOWTABLE`.
const GET_FLOWTABLE: u16 = NFTABLES | 23;

impl Netfilter {
    /// The flowtables of our table; empty on a kernel without flowtables.
    pub(crate) fn flowtables(&mut self) -> Result<BTreeMap<String, Flowtable>, DataplaneError> {
        // NFTA_FLOWTABLE_TABLE
        let request = || Body::new(INET).named(1, NAME);
        let found = self.dump("flowtables", GET_FLOWTABLE, &request, |body| {
            ours(body)?;
            flowtable(body)
        })?;
        Ok(found.into_iter().collect())
    }
}

fn flowtable(body: &[u8]) -> Option<(String, Flowtable)> {
    // NFTA_FLOWTABLE_NAME, _HOOK with NFTA_FLOWTABLE_HOOK_PRIORITY, _FLAGS
    let hook = find(body, 3).unwrap_or_default();
    let priority = attributes(hook).find(|(kind, _)| *kind == 2).and_then(|(_, value)| be32(value));
    let flags = find(body, 7).and_then(be32).unwrap_or_default();
    let flowtable =
        Flowtable { flags, priority: priority.map_or(0, u32::cast_signed), devices: devices(hook).collect() };
    Some((find(body, 2).and_then(text)?.to_owned(), flowtable))
}

/// The links that a flowtable is hooked to (`NFTA_FLOWTABLE_HOOK_DEVS`, `NFTA_DEVICE_NAME`).
fn devices(hook: &[u8]) -> impl Iterator<Item = LinkName> {
    let lists = attributes(hook).filter(|(kind, _)| *kind == 3);
    lists.flat_map(|(_, list)| attributes(list).filter_map(|(_, name)| link(name)).collect::<Vec<_>>())
}

/// The one link that a chain is hooked to (`NFTA_HOOK_DEV`).
pub(super) fn device(hook: &[u8]) -> Option<LinkName> {
    attributes(hook).find(|(kind, _)| *kind == 3).and_then(|(_, name)| link(name))
}

fn link(name: &[u8]) -> Option<LinkName> {
    text(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_links_of_a_flowtable_and_of_a_chain_are_read() {
        let names = [attribute(1, b"docker0\0"), attribute(1, b"flannel.1\0")].concat();
        let hook = [attribute(1, &0_u32.to_be_bytes()), attribute(2, &0_u32.to_be_bytes()), attribute(3, &names)];
        let body = [vec![INET, 0, 0, 0], attribute(2, b"overlay\0"), attribute(3, &hook.concat())].concat();
        let (name, found) = flowtable(&body).unwrap();
        let devices = ["docker0", "flannel.1"].map(|name| name.parse().unwrap()).into();
        assert_eq!((name.as_str(), found), ("overlay", Flowtable { devices, ..Flowtable::default() }));
        let chain = [attribute(2, &(-1_i32).to_be_bytes()), attribute(3, b"flannel.1\0")].concat();
        assert_eq!(device(&chain), Some("flannel.1".parse().unwrap()));
    }
}
