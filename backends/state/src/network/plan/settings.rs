//! Changes of settings: those desired, and those that keep foreign links from losing their routes when the host starts to forward.

use std::collections::BTreeMap;

use wire_net::{Family, LinkName};

use super::links::LinkEffects;
use crate::{Conflict, DesiredNet, LinkPlace, Namespace, ObservedNet, Owner, Setting};

/// The settings to write, in order, of those that are selected.
pub(super) fn changes(
    have: &ObservedNet,
    want: &DesiredNet,
    links: &LinkEffects,
    is_selected: impl Fn(&Setting) -> bool,
) -> BTreeMap<Setting, u32> {
    let gone = |setting: &Setting| setting.link().is_some_and(|link| links.absent.contains(&link));
    let blocked = |setting: &Setting| setting.link().is_some_and(|link| links.blocked.contains(&link));
    let current = |setting: &Setting| have.settings.get(setting).filter(|_| !gone(setting));
    let selected = want.settings.iter().filter(|(setting, _)| is_selected(setting));
    let differing = selected.filter(|(setting, value)| current(setting) != Some(*value));
    let wanted = differing.filter(|(setting, _)| !blocked(setting)).map(|(setting, value)| (*setting, *value));
    // `accept_ra` comes before forwarding, see `Setting`.
    kept(have, want).filter(|(setting, _)| is_selected(setting)).chain(wanted).collect()
}

/// `accept_ra` 2 for foreign links that have 1, so that they accept router advertisements though this host forwards.
fn kept(have: &ObservedNet, want: &DesiredNet) -> impl Iterator<Item = (Setting, u32)> {
    let forwards = is_on(&want.settings, Setting::Forwarding(Family::V6));
    let accepting = have.settings.iter().filter(move |(_, value)| forwards && **value == 1);
    accepting
        .filter(|(setting, _)| matches!(setting, Setting::RouterAdvertisements(_)))
        .map(|(setting, _)| (*setting, 2))
}

/// The conflicts with foreign links that do not forward though this host does. Only IPv4 is affected: an IPv6 link's setting stops no
/// packets.
pub(super) fn conflicts(namespace: Namespace, have: &ObservedNet, want: &DesiredNet) -> Vec<Conflict> {
    let forwarding = Setting::Forwarding(Family::V4);
    if !is_on(&have.settings, forwarding) || !is_on(&want.settings, forwarding) {
        return Vec::new();
    }
    let is_ours = |link: &LinkName| {
        want.links.contains_key(link) || have.links.get(link).is_some_and(|link| link.owner == Owner::Ours)
    };
    let off = have.settings.iter().filter(|(_, value)| **value == 0);
    let links = off.filter_map(|(setting, _)| Some((*setting, link_that_forwards_v4(setting)?)));
    let unwanted = links.filter(|(setting, _)| !want.settings.contains_key(setting));
    let foreign = unwanted.filter(|(_, link)| !is_ours(link));
    foreign.map(|(setting, name)| Conflict::Forwarding { link: LinkPlace { namespace, name }, setting }).collect()
}

/// The link whose IPv4 forwarding a setting is.
const fn link_that_forwards_v4(setting: &Setting) -> Option<LinkName> {
    match setting {
        Setting::LinkForwarding(Family::V4, link) => Some(*link),
        Setting::LinkForwarding(Family::V6, _)
        | Setting::Forwarding(_)
        | Setting::DisableIpv6(_)
        | Setting::RouterAdvertisements(_) => None,
    }
}

fn is_on(settings: &BTreeMap<Setting, u32>, setting: Setting) -> bool {
    settings.get(&setting) == Some(&1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{held, name, plan_host, state};

    fn wanted() -> DesiredNet {
        let mut want = state(&[]);
        for family in Family::ALL {
            want.settings.insert(Setting::Forwarding(family), 1);
        }
        want.settings.insert(Setting::LinkForwarding(Family::V4, name("flannel.1")), 1);
        want.settings.insert(Setting::DisableIpv6(name("flannel.1")), 0);
        want
    }

    #[test]
    fn accept_ra_of_foreign_links_is_written_before_this_host_forwards() {
        let mut have = held(&wanted());
        have.settings.values_mut().for_each(|value| *value = 1 - *value);
        have.settings.insert(Setting::RouterAdvertisements(name("eth0")), 1);
        have.settings.insert(Setting::RouterAdvertisements(name("wlan0")), 1);
        have.settings.insert(Setting::RouterAdvertisements(name("eth1")), 0);
        have.settings.insert(Setting::RouterAdvertisements(name("eth2")), 2);
        insta::assert_snapshot!(plan_host(&have, &wanted()), @"
        set sysctl net.ipv6.conf.eth0.accept_ra = 2
        set sysctl net.ipv6.conf.wlan0.accept_ra = 2
        set sysctl net.ipv6.conf.flannel/1.disable_ipv6 = 0
        set sysctl net.ipv4.ip_forward = 1
        set sysctl net.ipv6.conf.all.forwarding = 1
        set sysctl net.ipv4.conf.flannel/1.forwarding = 1
        ");
        let mut v4 = wanted();
        v4.settings.remove(&Setting::Forwarding(Family::V6));
        assert!(!plan_host(&have, &v4).to_string().contains("accept_ra"), "without IPv6 nothing is taken away");
    }

    #[test]
    fn a_container_bridge_that_does_not_forward_is_named_and_not_changed() {
        let mut have = held(&wanted());
        have.settings.insert(Setting::LinkForwarding(Family::V4, name("docker0")), 0);
        have.settings.insert(Setting::LinkForwarding(Family::V6, name("docker0")), 0);
        have.settings.insert(Setting::LinkForwarding(Family::V4, name("br-1")), 1);
        insta::assert_snapshot!(plan_host(&have, &wanted()), @"CONFLICT docker0 forwards no IPv4 packets: its containers cannot reach other hosts; sysctl -w net.ipv4.conf.docker0.forwarding=1");
        // Forwarding as a whole that goes on takes it along.
        have.settings.insert(Setting::Forwarding(Family::V4), 0);
        insta::assert_snapshot!(plan_host(&have, &wanted()), @"set sysctl net.ipv4.ip_forward = 1");
    }

    #[test]
    fn a_device_made_anew_has_its_settings_written_whatever_the_old_one_had() {
        let mut have = held(&wanted());
        let other = crate::ObservedVxlan::new(wire_net::Vni::new(1).unwrap());
        have.links.get_mut(&name("flannel.1")).unwrap().kind = crate::ObservedKind::Vxlan(other);
        let said = plan_host(&have, &wanted()).to_string();
        assert!(said.contains("set sysctl net.ipv4.conf.flannel/1.forwarding = 1"), "{said}");
        assert!(said.contains("set sysctl net.ipv6.conf.flannel/1.disable_ipv6 = 0"), "{said}");
        assert!(!said.contains("ip_forward"), "{said}");
    }
}
