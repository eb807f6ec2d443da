//! The difference of one link: each property that is not as desired. Pure.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use super::reach::Reach;
use crate::{
    Bridge, DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, Difference, Framing, Ipip, KernelKind, LinkId,
    LinkPlace, LinkRef, Macvlan, ObservedKind, ObservedLink, ObservedNet, ObservedVxlan, PerNamespace, PortFlag,
    PortFlags, Tunnel, Veth, Vlan, difference::counted,
};

/// A link that a plan changes, makes or removes.
pub(super) struct Change<'a> {
    pub(super) have: &'a PerNamespace<ObservedNet>,
    pub(super) want: &'a PerNamespace<DesiredNet>,
    pub(super) place: LinkPlace,
    /// The links that are missing or made anew.
    pub(super) made_anew: &'a BTreeSet<LinkPlace>,
    /// The number of entries on the link that are missing or get lost with it.
    pub(super) entries: usize,
}

/// A property of a link that is not as desired.
struct Property {
    /// How it is and how it should be.
    text: String,
    /// Whether no host can be reached through the link until it is changed.
    stops_packets: bool,
}

impl Change<'_> {
    pub(super) fn difference(&self) -> Difference {
        let LinkPlace { namespace, name } = self.place;
        let entry = format!("device {}", self.place);
        let wanted = self.want.get(namespace).and_then(|net| Some((net, net.links.get(&name)?)));
        let Some((net, want)) = wanted else { return Difference::unwanted(entry) };
        let cut_off = || Reach(net).has_hosts_behind(name).then(|| "no host can be reached through it".to_owned());
        let Some(have) = self.have.get(namespace).and_then(|net| net.links.get(&name)) else {
            let detail = if self.entries > 0 { format!("and {}", self.on_it()) } else { String::new() };
            return Difference::missing(entry).with_detail(detail).with_consequence(cut_off());
        };
        let properties = self.properties(have, want);
        let consequence = properties.iter().any(|property| property.stops_packets).then(cut_off).flatten();
        Difference::altered(entry, self.detail(want, properties)).with_consequence(consequence)
    }

    fn detail(&self, want: &DesiredLink, properties: Vec<Property>) -> String {
        let mut parts: Vec<String> = properties.into_iter().map(|property| property.text).collect();
        let is_anew = |place: &LinkPlace| self.made_anew.contains(place);
        if is_anew(&self.place) {
            let needs = want.kind.needs(self.place).filter(is_anew);
            let subject = if parts.is_empty() { "" } else { "it " };
            let with = needs.map(|link| format!(" together with {link}")).unwrap_or_default();
            let entries = if self.entries > 0 { format!(", and {}", self.on_it()) } else { String::new() };
            parts.push(format!("{subject}must be made anew{with}{entries}"));
        } else {
            let bridge = want.master.map(|name| LinkPlace { name, ..self.place }).filter(is_anew);
            if let Some(bridge) = bridge.filter(|_| parts.is_empty()) {
                parts.push(format!("must be put into {bridge} again, which must be made anew"));
            }
            if self.entries > 0 {
                parts.push(format!("{} must be set again", self.on_it()));
            }
        }
        parts.join("; ")
    }

    fn on_it(&self) -> String {
        format!("{} on it", counted(self.entries, "entry", "entries"))
    }

    fn properties(&self, have: &ObservedLink, want: &DesiredLink) -> Vec<Property> {
        let Some(mut found) = self.of_kind(&have.kind, &want.kind) else {
            let text = was("is", "be", &kind_name(&have.kind), &desired_kind_name(&want.kind));
            return vec![Property::stopping(text)];
        };
        if let Some(mac) = want.mac.filter(|mac| have.mac != Some(*mac)) {
            found.push(Property::stopping(was("has", "have", &shown("MAC", have.mac), &mac)));
        }
        if have.mtu != want.mtu {
            found.push(Property::passing(was("has", "have", &format!("MTU {}", have.mtu), &want.mtu)));
        }
        if !have.up {
            found.push(Property::stopping("is down, and should be up".to_owned()));
        }
        if let Some(bridge) = want.master.filter(|bridge| have.master.is_none_or(|found| found.name != *bridge)) {
            let is = have.master.map_or_else(|| "no bridge".to_owned(), |found| found.to_string());
            found.push(Property::stopping(was("is in", "be in", &is, &bridge)));
        }
        if let (Some(_), Some(port), Some(flags)) = (want.master, have.port, want.port) {
            found.extend(of_port(port, flags));
        }
        found
    }

    /// `None` if the kinds differ.
    fn of_kind(&self, have: &ObservedKind, want: &DesiredKind) -> Option<Vec<Property>> {
        match (have, want) {
            (ObservedKind::Tun(have), DesiredKind::Tunnel(want)) => Some(of_tunnel(have.as_ref(), want)),
            (_, DesiredKind::Tunnel(_)) => None,
            (have, DesiredKind::Kernel(want)) => self.of_kernel_kind(have, want),
        }
    }

    fn of_kernel_kind(&self, have: &ObservedKind, want: &KernelKind) -> Option<Vec<Property>> {
        match (want, have) {
            (KernelKind::Vxlan(want), ObservedKind::Vxlan(have)) => Some(self.of_vxlan(have, want)),
            (KernelKind::Bridge(want), ObservedKind::Bridge(have)) => Some(of_bridge(*have, *want)),
            (KernelKind::Veth(want), ObservedKind::Veth(have)) => Some(self.of_veth(*have, *want)),
            (KernelKind::Vlan(want), ObservedKind::Vlan(have)) => Some(self.of_vlan(*have, *want)),
            (KernelKind::Macvlan(want), ObservedKind::Macvlan(have)) => Some(self.of_macvlan(*have, *want)),
            (KernelKind::Ipip(want), ObservedKind::Ipip(have)) => Some(self.of_ipip(*have, *want)),
            (
                KernelKind::Vxlan(_)
                | KernelKind::Bridge(_)
                | KernelKind::Veth(_)
                | KernelKind::Vlan(_)
                | KernelKind::Macvlan(_)
                | KernelKind::Ipip(_),
                _,
            ) => None,
        }
    }

    fn of_vxlan(&self, have: &ObservedVxlan, want: &DesiredVxlan) -> Vec<Property> {
        let mut found = Vec::new();
        if have.vni != want.vni {
            found.push(Property::stopping(was("has", "have", &format!("VNI {}", have.vni), &want.vni)));
        }
        if let Some(port) = want.port.filter(|port| have.port != *port) {
            found.push(Property::stopping(was("uses", "use", &format!("UDP port {}", have.port), &port)));
        }
        found.extend(local(have.local, want.local));
        found.extend(self.sends_through(have.parent, want.parent));
        if let Some(group) = have.group {
            found.push(Property::stopping(format!("has the default destination {group}, and should have none")));
        }
        if have.gbp != want.gbp {
            found
                .push(Property::passing(either(have.gbp, ["has group policies (gbp)", "has no group policies (gbp)"])));
        }
        if have.l2miss {
            found.push(Property::passing("reports missing FDB entries (l2miss), and should not".to_owned()));
        }
        if have.learning != want.learning {
            let text = ["learns FDB entries from packets", "learns no FDB entries from packets"];
            found.push(Property::passing(either(have.learning, text)));
        }
        found
    }

    fn of_veth(&self, have: Veth<Option<LinkId>>, want: Veth<LinkPlace>) -> Vec<Property> {
        let is_desired = self.want.get(want.peer.namespace).is_some_and(|net| net.links.contains_key(&want.peer.name));
        let is_so = !is_desired || (have.peer.is_some() && have.peer == self.have.id(want.peer));
        let peer = have.peer.map_or_else(|| "a link in another namespace".to_owned(), |peer| peer.to_string());
        let text = || was("is a pair with", "be a pair with", &peer, &want.peer);
        (!is_so).then(|| Property::stopping(text())).into_iter().collect()
    }

    fn of_vlan(&self, have: Vlan<Option<LinkId>>, want: Vlan<LinkRef>) -> Vec<Property> {
        let id = (have.id != want.id).then(|| was("has", "have", &format!("VLAN ID {}", have.id), &want.id));
        id.map(Property::stopping).into_iter().chain(self.is_on(have.parent, want.parent)).collect()
    }

    fn of_macvlan(&self, have: Macvlan<Option<LinkId>>, want: Macvlan<LinkRef>) -> Vec<Property> {
        let mode = (have.mode != want.mode).then(|| was("is", "be", &have, &want));
        mode.map(Property::stopping).into_iter().chain(self.is_on(have.parent, want.parent)).collect()
    }

    fn of_ipip(&self, have: Ipip<LinkId>, want: Ipip<LinkRef>) -> Vec<Property> {
        let local = local(have.local.map(IpAddr::V4), want.local.map(IpAddr::V4));
        local.into_iter().chain(self.sends_through(have.parent, want.parent)).collect()
    }

    fn sends_through(&self, have: Option<LinkId>, want: Option<LinkRef>) -> Option<Property> {
        let any = || "the link of the host's routes".to_owned();
        let is = have.map_or_else(any, |link| link.to_string());
        let should = want.map_or_else(any, |link| named_apart(have, link));
        let text = || was("sends through", "send through", &is, &should);
        (!self.is_same(have, want)).then(|| Property::stopping(text()))
    }

    fn is_on(&self, have: Option<LinkId>, want: LinkRef) -> Option<Property> {
        let is = have.map_or_else(|| "a link in another namespace".to_owned(), |link| link.to_string());
        let text = || was("is on", "be on", &is, &named_apart(have, want));
        (!self.is_same(have, Some(want))).then(|| Property::stopping(text()))
    }

    fn is_same(&self, have: Option<LinkId>, want: Option<LinkRef>) -> bool {
        match (have, want) {
            (Some(have), Some(want)) => self.have.resolve(want) == Some(have),
            (have, want) => have.is_none() && want.is_none(),
        }
    }
}

impl Property {
    const fn stopping(text: String) -> Self {
        Self { text, stops_packets: true }
    }

    const fn passing(text: String) -> Self {
        Self { text, stops_packets: false }
    }
}

fn of_bridge(have: Bridge, want: Bridge) -> Vec<Property> {
    let mut found = Vec::new();
    if have.snooping != want.snooping {
        let text =
            ["sends multicast only to ports that asked for it", "sends multicast to ports that did not ask for it"];
        found.push(Property::passing(either(have.snooping, text)));
    }
    if have.spanning_tree != want.spanning_tree {
        let text = ["takes part in the spanning tree protocol", "takes no part in the spanning tree protocol"];
        found.push(Property::passing(either(have.spanning_tree, text)));
    }
    found
}

fn of_port(have: PortFlags, want: PortFlags) -> impl Iterator<Item = Property> {
    let differing = PortFlag::ALL.into_iter().filter(move |(flag, _)| have.has(*flag) != want.has(*flag));
    differing.map(move |(flag, name)| {
        let on = |flags: PortFlags| if flags.has(flag) { "on" } else { "off" };
        Property::passing(format!("has {name} {} in its bridge, and should have it {}", on(have), on(want)))
    })
}

fn of_tunnel(have: Option<&Tunnel>, want: &Tunnel) -> Vec<Property> {
    let Some(have) = have else {
        return vec![Property::stopping("has no tunnel of this agent, and should have one".to_owned())];
    };
    let mut found = Vec::new();
    if have.framing != want.framing {
        found.push(Property::stopping(was("adds", "add", &header(have.framing), &header(want.framing))));
    }
    if have.local != want.local {
        found.push(Property::stopping(was("sends from", "send from", &have.local, &want.local)));
    }
    if have.own != want.own {
        let subnet =
            |own: Option<_>| own.map_or_else(|| "all subnets".to_owned(), |own: wire_net::Prefix| own.to_string());
        let text = was("accepts packets for", "accept packets for", &subnet(have.own), &subnet(want.own));
        found.push(Property { text, stops_packets: have.own.is_some() });
    }
    if have.source_check != want.source_check {
        found.push(Property::passing(either(have.source_check, ["checks sources", "does not check sources"])));
    }
    if have.queues != want.queues {
        let queues = counted(have.queues, "queue", "queues");
        found.push(Property::passing(was("has", "have", &queues, &want.queues)));
    }
    if have.capabilities != want.capabilities {
        let text = was("uses offloads:", "use offloads:", &have.capabilities, &want.capabilities);
        found.push(Property::passing(text));
    }
    found
}

fn header(framing: Framing) -> String {
    match framing {
        Framing::Raw => "no header".to_owned(),
        Framing::Vxlan { vni, mac } => format!("a header with VNI {vni} and MAC {mac}"),
        Framing::Ethernet { vni } => format!("a header with VNI {vni} before its frames"),
    }
}

fn local(have: Option<IpAddr>, want: Option<IpAddr>) -> Option<Property> {
    let address = |local: Option<IpAddr>| local.map_or_else(|| "any address".to_owned(), |local| local.to_string());
    let text = || was("sends from", "send from", &address(have), &address(want));
    (have != want).then(|| Property::stopping(text()))
}

fn kind_name(kind: &ObservedKind) -> String {
    let name = match kind {
        ObservedKind::Vxlan(_) => "a VXLAN device",
        ObservedKind::Tun(_) => "a TUN device",
        ObservedKind::Bridge(_) => "a bridge",
        ObservedKind::Veth(_) => "a veth device",
        ObservedKind::Vlan(_) => "a VLAN",
        ObservedKind::Macvlan(_) => "a macvlan device",
        ObservedKind::Ipip(_) => "an IPIP device",
        ObservedKind::Other(kind) if kind.is_empty() => "hardware",
        ObservedKind::Other(kind) => return format!("of kind {kind}"),
    };
    name.to_owned()
}

const fn desired_kind_name(kind: &DesiredKind) -> &'static str {
    match kind {
        DesiredKind::Tunnel(_) => "a TUN device",
        DesiredKind::Kernel(KernelKind::Vxlan(_)) => "a VXLAN device",
        DesiredKind::Kernel(KernelKind::Bridge(_)) => "a bridge",
        DesiredKind::Kernel(KernelKind::Veth(_)) => "a veth device",
        DesiredKind::Kernel(KernelKind::Vlan(_)) => "a VLAN",
        DesiredKind::Kernel(KernelKind::Macvlan(_)) => "a macvlan device",
        DesiredKind::Kernel(KernelKind::Ipip(_)) => "an IPIP device",
    }
}

/// The name of a desired link, told apart from a link with the same name that was found instead.
fn named_apart(have: Option<LinkId>, want: LinkRef) -> String {
    let name = want.to_string();
    if have.is_some_and(|have| have.to_string() == name) { format!("the new {name}") } else { name }
}

fn shown<T: fmt::Display>(word: &str, value: Option<T>) -> String {
    value.map_or_else(|| format!("no {word}"), |value| format!("{word} {value}"))
}

fn was(is: &str, be: &str, have: &dyn fmt::Display, want: &dyn fmt::Display) -> String {
    format!("{is} {have}, and should {be} {want}")
}

fn either(have: bool, [on, off]: [&str; 2]) -> String {
    if have { format!("{on}, and should not") } else { format!("{off}, and should") }
}
