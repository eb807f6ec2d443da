//! Distinguishes a host from a copy of its disk (docs/adr/0009-a-clone-is-a-host-of-its-own.md).
//!
//! A copy has everything on the disk, the machine-id too. It has neither the network cards of the original nor, for
//! cloned virtual machines, the firmware's UUID of the machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire_kernel::{MacOrigin, Nic};
use wire_net::MacAddr;
use wire_state::DataplaneError;

use crate::{ports::Ports, state::State};

/// The properties of this machine that a copy of its disk does not have, as of the last lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The MACs of its network cards, by the links' names. If it has no cards (a container), the MAC that the underlay
    /// was given from outside.
    #[serde(default)]
    pub(crate) links: BTreeMap<String, MacAddr>,
    /// A hash of DMI's `product_uuid`, which only root may read. Not saved without network cards: containers see the
    /// machine's UUID, which all of them share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) product: Option<String>,
}

/// The relation between a state file and this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kinship {
    /// This host wrote it.
    Same,
    /// The state does not show who wrote it.
    Unknown,
    /// Another host seems to have written it. The difference, for people.
    Other(String),
}

/// This host as it is now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    nics: Vec<Nic>,
    product: Option<String>,
}

/// UUIDs of firmware that was never given one. One repeated digit is another such value.
const PLACEHOLDERS: [&str; 5] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "01234567-8910-1112-1314-151617181920",
    // The service tag in it is blank.
    "4c4c4544-0000-2010-8020-80c04f202020",
];

impl Seen {
    /// Reads this host's properties.
    ///
    /// # Errors
    /// When the kernel does not list its links.
    pub(crate) fn now(ports: &impl Ports) -> Result<Self, DataplaneError> {
        Ok(Self { nics: ports.nics()?, product: ports.product_uuid().as_deref().and_then(mark) })
    }

    /// The values to save. `underlay` is the index of the underlay's link, if it is known.
    pub(crate) fn machine(&self, underlay: Option<u32>) -> Machine {
        if self.has_cards() {
            return Machine { links: self.proofs(), product: self.product.clone() };
        }
        let carries =
            |nic: &&Nic| underlay.is_some_and(|underlay| [Some(nic.index), nic.master].contains(&Some(underlay)));
        Machine { links: self.proofs_of(self.nics.iter().filter(carries)), product: None }
    }

    fn has_cards(&self) -> bool {
        self.nics.iter().any(|nic| matches!(nic.origin, MacOrigin::Card(_)))
    }

    /// The MACs that a copy of the disk would not have.
    fn proofs(&self) -> BTreeMap<String, MacAddr> {
        self.proofs_of(self.nics.iter())
    }

    fn proofs_of<'a>(&self, nics: impl Iterator<Item = &'a Nic>) -> BTreeMap<String, MacAddr> {
        let has_cards = self.has_cards();
        nics.filter_map(|nic| Some((nic.name.to_string(), proof(nic, has_cards)?))).collect()
    }

    /// Compares `state` with this host. If the firmware's UUID is the same, a replaced card does not make it another
    /// host.
    pub(crate) fn kinship(&self, state: &State) -> Kinship {
        let then = &state.machine;
        if then.links.is_empty() && then.product.is_none() {
            return self.kinship_by_link(state);
        }
        let now = self.machine(None);
        let links = self.proofs();
        let same_link = then.links.values().any(|mac| links.values().any(|own| own == mac));
        let same_machine = then.product.is_some() && then.product == now.product;
        if same_link || same_machine {
            return Kinship::Same;
        }
        let product = match (&then.product, &now.product) {
            (Some(_), Some(_)) => ", and DMI's product_uuid differs too",
            (Some(_), None) => ", and DMI's product_uuid cannot be read now",
            (None, _) => "",
        };
        Kinship::Other(format!("then {}, now {}{product}", shown(&then.links), shown(&links)))
    }

    /// Compares with a state of an older version, which saved only the MAC of the underlay's link, of any origin.
    fn kinship_by_link(&self, state: &State) -> Kinship {
        let Some(then) = state.link else { return Kinship::Unknown };
        let ours = |nic: &&Nic| !state.macs.contains_key(nic.name.as_str());
        let has = |nic: &Nic| nic.mac == then || nic.origin == MacOrigin::Card(then);
        if self.nics.iter().filter(ours).any(has) {
            return Kinship::Same;
        }
        Kinship::Other(format!("then the underlay's interface had {then}, now {}", shown(&self.proofs())))
    }
}

fn shown(links: &BTreeMap<String, MacAddr>) -> String {
    let links: Vec<String> = links.iter().map(|(name, mac)| format!("{name} has {mac}")).collect();
    if links.is_empty() { "no link has a MAC address of its own".to_owned() } else { links.join(" and ") }
}

/// The MAC of a network card; on a host without cards, one that was given from outside.
fn proof(nic: &Nic, has_cards: bool) -> Option<MacAddr> {
    match nic.origin {
        MacOrigin::Card(permanent) => Some(permanent),
        MacOrigin::Outside => (!has_cards).then_some(nic.mac),
        MacOrigin::Host => None,
    }
}

/// A hash of a UUID (FNV-1a), unless it is a placeholder. Hashed because other users may read the state.
fn mark(text: &str) -> Option<String> {
    let uuid = text.trim().to_ascii_lowercase();
    let digits: Vec<char> = uuid.chars().filter(|digit| *digit != '-').collect();
    let is_uuid = digits.len() == 32 && digits.iter().all(char::is_ascii_hexdigit);
    let is_blank = digits.iter().all(|digit| Some(digit) == digits.first());
    let given = is_uuid && !is_blank && !PLACEHOLDERS.contains(&uuid.as_str());
    let hash = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    given.then(|| format!("{:016x}", uuid.bytes().fold(0xcbf2_9ce4_8422_2325, hash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "8f7f3c1a-52b0-4b1e-9f43-0a1b2c3d4e5f\n";

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([0x52, 0x54, 0, 0, 0, last])
    }

    fn nic(name: &str, now: u8, origin: MacOrigin) -> Nic {
        let index = name.bytes().map(u32::from).sum();
        Nic { name: name.parse().unwrap(), index, master: None, mac: mac(now), origin }
    }

    fn card(name: &str, address: u8) -> Nic {
        nic(name, address, MacOrigin::Card(mac(address)))
    }

    fn host(nics: &[Nic], uuid: Option<&str>) -> Seen {
        Seen { nics: nics.to_vec(), product: uuid.and_then(mark) }
    }

    /// The state of a host whose underlay is its first link.
    fn state_of(seen: &Seen) -> State {
        State { machine: seen.machine(Some(seen.nics[0].index)), link: Some(seen.nics[0].mac), ..State::default() }
    }

    fn is_other(kinship: &Kinship, named: &[&str]) -> bool {
        matches!(kinship, Kinship::Other(why) if named.iter().all(|part| why.contains(part)))
    }

    #[test]
    fn any_card_that_was_there_proves_the_host_whatever_the_underlays_bridge_or_bond_has() {
        let bridge = |now| nic("br0", now, MacOrigin::Host);
        let before = host(&[bridge(1), card("eth0", 1), card("eth1", 2)], None);
        for after in [
            vec![bridge(77), card("eth0", 1), card("eth1", 2)],
            vec![bridge(77), card("enp1s0", 2)],
            vec![nic("eth0", 99, MacOrigin::Card(mac(1)))],
        ] {
            assert_eq!(host(&after, None).kinship(&state_of(&before)), Kinship::Same, "{after:?}");
        }
        let clone = host(&[bridge(1), card("eth0", 5)], None);
        let kinship = clone.kinship(&state_of(&before));
        assert!(is_other(&kinship, &["eth0 has 52:54:00:00:00:01", "eth0 has 52:54:00:00:00:05"]), "{kinship:?}");
    }

    #[test]
    fn addresses_that_a_copy_of_the_disk_would_have_too_prove_nothing() {
        let own = |name| nic(name, 9, MacOrigin::Host);
        let veth = nic("veth1", 9, MacOrigin::Outside);
        let before = host(&[card("eth0", 1), own("docker0"), own("bond0"), veth.clone()], None);
        let clone = host(&[card("eth0", 2), own("docker0"), own("bond0"), veth], None);
        assert!(is_other(&clone.kinship(&state_of(&before)), &[]));
    }

    #[test]
    fn a_card_that_was_replaced_leaves_the_host_the_same_where_the_firmware_says_so() {
        let before = host(&[card("eth0", 1)], Some(UUID));
        let upper = UUID.to_uppercase();
        assert_eq!(host(&[card("eth0", 2)], Some(&upper)).kinship(&state_of(&before)), Kinship::Same);
        let other = UUID.replace("8f7f", "8f7e");
        let kinship = host(&[card("eth0", 2)], Some(&other)).kinship(&state_of(&before));
        assert!(is_other(&kinship, &["product_uuid differs"]), "{kinship:?}");
        let kinship = host(&[card("eth0", 2)], None).kinship(&state_of(&before));
        assert!(is_other(&kinship, &["product_uuid cannot be read"]), "{kinship:?}");
    }

    #[test]
    fn a_product_uuid_that_nobody_has_given_is_none() {
        let blanks = ["0", "f", "F"].map(|digit| "dddddddd-dddd-dddd-dddd-dddddddddddd".replace('d', digit));
        for bad in blanks.iter().map(String::as_str).chain(PLACEHOLDERS).chain(["", "Not Settable", "8f7f3c1a"]) {
            assert_eq!(mark(bad), None, "{bad}");
            let seen = |card_of| host(&[card("eth0", card_of)], Some(bad));
            assert!(is_other(&seen(2).kinship(&state_of(&seen(1))), &[]), "{bad}");
        }
        assert!(mark(UUID).is_some());
    }

    #[test]
    fn containers_of_one_machine_are_told_by_what_they_were_given_not_by_the_machine() {
        let container = |address| nic("eth0", address, MacOrigin::Outside);
        let before = host(&[container(1), nic("veth7", 7, MacOrigin::Outside)], Some(UUID));
        assert_eq!(state_of(&before).machine.links.len(), 1, "only the underlay's");
        assert_eq!(host(&[container(1)], Some(UUID)).kinship(&state_of(&before)), Kinship::Same);
        assert!(is_other(&host(&[container(2)], Some(UUID)).kinship(&state_of(&before)), &[]));
        let port = Nic { master: Some(nic("br0", 0, MacOrigin::Host).index), ..container(3) };
        let bridged = host(&[nic("br0", 3, MacOrigin::Host), port.clone()], None);
        assert_eq!(host(&[nic("br0", 8, MacOrigin::Host), port], None).kinship(&state_of(&bridged)), Kinship::Same);
    }

    #[test]
    fn a_host_with_nothing_that_proves_it_is_not_known_for_another() {
        let tunnel = host(&[nic("wg0", 1, MacOrigin::Host)], Some(UUID));
        let state = State { machine: tunnel.machine(Some(tunnel.nics[0].index)), ..State::default() };
        assert_eq!(tunnel.kinship(&state), Kinship::Unknown);
    }

    #[test]
    fn a_state_of_an_older_version_is_this_hosts_as_long_as_any_link_has_that_address() {
        let state = |link| State { link, macs: [("flannel.1".to_owned(), mac(3))].into(), ..State::default() };
        let now = host(&[card("eth0", 1), nic("br0", 2, MacOrigin::Host), nic("flannel.1", 3, MacOrigin::Host)], None);
        for same in [1, 2] {
            assert_eq!(now.kinship(&state(Some(mac(same)))), Kinship::Same);
        }
        assert_eq!(now.kinship(&state(None)), Kinship::Unknown);
        let kinship = now.kinship(&state(Some(mac(3))));
        assert!(is_other(&kinship, &["52:54:00:00:00:03", "eth0 has 52:54:00:00:00:01"]), "{kinship:?}");
    }
}
