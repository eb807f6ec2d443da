//! The verdict of our own nftables table about a packet that comes in, from the rules and sets that the kernel holds.
//!
//! Only the decisions of our policy are made, by the purpose of each rule, in the order of the rules.

use std::net::IpAddr;

use wire_net::{Family, LinkName, Prefix};

use super::{
    device::{OverlayDevice, our_device},
    host::{DirectNetwork, HostState},
    outcome::{Gap, Hop, Reason},
    packet::Packet,
    routes::{Found, Query},
    walk::{Step, Walk},
};
use crate::{
    Attachment, ChainPolicy, Element, Hook, ObservedBaseChain, ObservedRule, ObservedTable, Purpose, SetKind,
    TableFamily,
};

/// The chain that sees packets as they come in.
pub(super) const ARRIVING: Place = Place::inet("arriving", Attachment::filter(Hook::Prerouting, -310));
/// The chain that sees outer packets without a VXLAN header, as they come to this host.
pub(super) const ENCAPSULATED_IN: Place = Place::inet("encapsulated-in", Attachment::filter(Hook::Input, -10));

/// The chain that [`ARRIVING`] calls for what comes out of overlay devices.
const DECAPSULATED: &str = "decapsulated";

/// The chain that sees packets of the device of a former backend as they come in.
const BESIDE: &str = "arriving-beside";
/// The set of links with containers of flat networks.
pub(super) const CONTAINERS: &str = "bridges";

/// `NFT_TABLE_F_DORMANT` of linux/netfilter/nf_tables.h: the kernel skips the table.
const DORMANT: u32 = 1;

/// A chain of our tables, and where our policy puts it in the kernel.
pub(super) struct Place {
    pub(super) family: TableFamily,
    pub(super) name: &'static str,
    /// `None` if only other chains call it.
    pub(super) attachment: Option<Attachment>,
}

impl Place {
    pub(super) const fn inet(name: &'static str, attachment: Attachment) -> Self {
        Self { family: TableFamily::Inet, name, attachment: Some(attachment) }
    }
}

/// A packet that comes in.
pub(super) struct Incoming<'a> {
    pub(super) packet: &'a Packet,
    pub(super) link: LinkName,
    /// Whether a rule has let in the outer packet that it came in.
    pub(super) let_in: bool,
}

/// The end of a chain for one packet.
enum Verdict {
    LetIn(Purpose),
    Passed,
    Dropped(Purpose),
    DroppedByPolicy,
}

impl<'a> Walk<'a> {
    /// A chain of ours that the kernel calls; `None` if it does not, or if it was not read.
    pub(super) fn chain(&mut self, place: &Place) -> Option<(&'a ObservedTable, &'a ObservedBaseChain)> {
        let Place { family, name, attachment } = *place;
        let Some(firewall) = self.host.firewall else {
            self.not_looked_at("the packet filter of this host");
            return None;
        };
        let table = match family {
            TableFamily::Inet => firewall.table.as_ref(),
            TableFamily::Bridge => firewall.bridge.as_ref(),
        };
        let table = table.filter(|table| table.flags & DORMANT == 0)?;
        let chain = table.chains.get(name)?;
        if chain.attachment != attachment {
            self.not_looked_at(&format!(
                "chain {name} of table {family} wire-agent, which is not called as we call it"
            ));
            return None;
        }
        if chain.rules.iter().any(|rule| !matches!(rule, ObservedRule::Marked(_))) {
            self.not_looked_at(&format!("rules of others in chain {name} of table {family} wire-agent"));
        }
        Some((table, chain))
    }
}

impl Walk<'_> {
    /// Lets our table judge a packet that comes in. Tells whether a rule has let it in.
    pub(super) fn filter(&mut self, incoming: &Incoming<'_>, place: &Place) -> Step<bool> {
        let host = self.host;
        let Some((table, chain)) = self.chain(place) else { return Ok(false) };
        let is_arriving = place.name == ARRIVING.name;
        if is_arriving && self.lacks_direct(chain, incoming) {
            self.not_looked_at("the sources of packets without encapsulation, since this host's subnet is not known");
        }
        if is_arriving && table.chains.contains_key(BESIDE) {
            self.not_looked_at(&format!("chain {BESIDE} of table inet wire-agent, about a former backend's device"));
        }
        let inside = host.our_devices().find(|device| device.name == incoming.link);
        let target = our_device(host, incoming.packet);
        let judge = Judge { host, table, incoming, inside, target };
        let rules = chain.rules.iter().flat_map(|rule| with_called(table, rule));
        match judge.verdict(rules, chain.policy)? {
            Verdict::Passed => Ok(false),
            Verdict::LetIn(purpose) => {
                self.hops.push(Hop::LetIn(purpose));
                Ok(true)
            }
            Verdict::Dropped(purpose) => {
                Err(Reason::Rule { chain: chain_of(purpose, table, place.name), purpose }.into())
            }
            Verdict::DroppedByPolicy => Err(Reason::Policy { table: TableFamily::Inet, chain: place.name }.into()),
        }
    }
}

impl Walk<'_> {
    /// True if rules judge packets like this one by its source, and it is not known which sources they drop.
    fn lacks_direct(&self, chain: &ObservedBaseChain, incoming: &Incoming<'_>) -> bool {
        let family = Family::of(incoming.packet.destination);
        let judged = chain.rules.iter().filter_map(Purpose::of).any(|purpose| purpose == Purpose::DirectOwn(family));
        let known = self.host.surroundings.direct.iter().any(|network| network.own.family() == family);
        judged && !known && !self.host.our_devices().any(|device| device.name == incoming.link)
    }
}

/// A rule, or the rules of the chain that it calls.
fn with_called<'t>(table: &'t ObservedTable, rule: &'t ObservedRule) -> &'t [ObservedRule] {
    if Purpose::of(rule) != Some(Purpose::FromOverlays) {
        return std::slice::from_ref(rule);
    }
    table.chains.get(DECAPSULATED).map_or(&[], |called| &called.rules)
}

/// The chain that has the rule: what comes out of overlay devices is judged in the one that is called.
fn chain_of(purpose: Purpose, table: &ObservedTable, chain: &'static str) -> &'static str {
    let called = table.chains.get(DECAPSULATED);
    let has = called.is_some_and(|called| called.rules.iter().any(|rule| Purpose::of(rule) == Some(purpose)));
    if has { DECAPSULATED } else { chain }
}

/// A packet before one chain of our table.
struct Judge<'a> {
    host: &'a HostState<'a>,
    table: &'a ObservedTable,
    incoming: &'a Incoming<'a>,
    /// Our device that it was decapsulated by.
    inside: Option<OverlayDevice<'a>>,
    /// Our device that would decapsulate it.
    target: Option<OverlayDevice<'a>>,
}

impl Judge<'_> {
    fn verdict<'r>(&self, rules: impl Iterator<Item = &'r ObservedRule>, policy: ChainPolicy) -> Step<Verdict> {
        for purpose in rules.filter_map(Purpose::of) {
            let verdict = match self.target {
                _ if self.drops_inside(purpose)? || self.drops_direct(purpose) => Some(Verdict::Dropped(purpose)),
                Some(device) if self.is_local(device) => self.of_encapsulated(purpose, device)?,
                // The rules about what containers send to other hosts come before the one that lets it pass.
                Some(device) if purpose == Purpose::Containers && self.is_of_container(device)? => {
                    Some(Verdict::Dropped(purpose))
                }
                Some(_) | None => (purpose == Purpose::NotEncapsulated).then_some(Verdict::Passed),
            };
            if let Some(verdict) = verdict {
                return Ok(verdict);
            }
        }
        Ok(match policy {
            ChainPolicy::Accept => Verdict::Passed,
            ChainPolicy::Drop => Verdict::DroppedByPolicy,
        })
    }

    /// Whether a rule drops it as a packet that was decapsulated.
    fn drops_inside(&self, purpose: Purpose) -> Step<bool> {
        let Some(device) = self.inside else { return Ok(false) };
        if purpose == Purpose::LetInByNoRule(device.family) {
            Ok(!self.incoming.let_in)
        } else if purpose == Purpose::SourcesOutsideLeases(device.family) {
            Ok(!self.is_answered_by(device.name)? && !self.is_direct_source(device.family))
        } else {
            Ok(false)
        }
    }

    /// True if a rule drops it as a packet without encapsulation.
    fn drops_direct(&self, purpose: Purpose) -> bool {
        let Packet { source, destination, .. } = *self.incoming.packet;
        let mut networks = self.host.surroundings.direct.iter();
        let to_own = |network: &&DirectNetwork| network.link == self.incoming.link && network.own.contains(destination);
        let Some(DirectNetwork { own, leased: [first, last], .. }) = networks.find(to_own) else { return false };
        if purpose == Purpose::DirectOwn(own.family()) {
            own.contains(source)
        } else if purpose == Purpose::DirectOutsideLeases(own.family()) {
            (*first..=*last).contains(&source) && !self.is_direct_source(own.family())
        } else {
            false
        }
    }

    /// The verdict of one rule about a packet that is encapsulated, for this host; `None` if the next one decides.
    fn of_encapsulated(&self, purpose: Purpose, device: OverlayDevice<'_>) -> Step<Option<Verdict>> {
        let family = Family::of(self.incoming.packet.source);
        let (dropped, let_in) = (Some(Verdict::Dropped(purpose)), Some(Verdict::LetIn(purpose)));
        let is_usual = || self.is_in_subnets(family) && !self.is_on_container_link();
        Ok(match purpose {
            Purpose::Usual(of) if of == family && is_usual() => let_in,
            Purpose::Containers if self.is_of_container(device)? => dropped,
            Purpose::Peers(of) if of == family && self.is_from_peer(family) => let_in,
            Purpose::OtherLeases(of) if of == family && self.is_in_peers(family) => dropped,
            Purpose::Strangers(of) if of == family => dropped,
            Purpose::AllOthers(of) if of == family => let_in,
            Purpose::LetInByNoRule(_)
            | Purpose::SourcesOutsideLeases(_)
            | Purpose::DirectOwn(_)
            | Purpose::DirectOutsideLeases(_)
            | Purpose::Usual(_)
            | Purpose::NotEncapsulated
            | Purpose::FromOverlays
            | Purpose::Containers
            | Purpose::Peers(_)
            | Purpose::OtherLeases(_)
            | Purpose::Strangers(_)
            | Purpose::AllOthers(_) => None,
        })
    }

    fn is_local(&self, device: OverlayDevice<'_>) -> bool {
        let destination = self.incoming.packet.destination;
        device.local.map_or_else(|| self.host.link_of(destination).is_some(), |local| local == destination)
    }

    /// Whether a container sends it: it comes by a link that containers are on, or from an address that is routed into the overlay, or from
    /// this host's own address.
    fn is_of_container(&self, device: OverlayDevice<'_>) -> Step<bool> {
        let source = self.incoming.packet.source;
        Ok(self.is_on_container_link() || device.local == Some(source) || self.is_answered_by(device.name)?)
    }

    fn is_on_container_link(&self) -> bool {
        let links = self.table.sets.get(CONTAINERS);
        links.is_some_and(|links| links.elements.contains(&Element::Link(self.incoming.link)))
    }

    /// Whether packets to its source leave by that link.
    fn is_answered_by(&self, link: LinkName) -> Step<bool> {
        let Packet { source, destination, .. } = *self.incoming.packet;
        match self.host.route(&Query { destination: source, source: destination, incoming: None }) {
            Found::Hop(_, hop) => Ok(hop.link() == Some(link)),
            Found::Local | Found::Broadcast | Found::Refused(_) | Found::Nothing => Ok(false),
            Found::Unclear(why) => Err(Gap::Route(why).into()),
        }
    }

    /// True if its source is in a subnet of a peer that may send without encapsulation.
    fn is_direct_source(&self, family: Family) -> bool {
        let source = self.incoming.packet.source;
        self.table.sets.values().any(|set| match set.kind {
            SetKind::Sources(of, len) if of == family => {
                Prefix::new(source, len).is_ok_and(|subnet| set.elements.contains(&Element::Source(subnet)))
            }
            SetKind::Sources(..)
            | SetKind::Subnets(..)
            | SetKind::Addresses(_)
            | SetKind::Links
            | SetKind::Leases(_)
            | SetKind::Senders(_)
            | SetKind::Vnis
            | SetKind::Ports
            | SetKind::Vteps(_)
            | SetKind::Behind(..)
            | SetKind::Advertised(_)
            | SetKind::Within
            | SetKind::Seen(_)
            | SetKind::Claims(_) => false,
        })
    }

    /// The inner source; `None` if it is not known.
    fn inner_source(&self) -> Option<IpAddr> {
        self.incoming.packet.inner.as_deref().map(|inner| inner.packet.source)
    }

    fn is_in_subnets(&self, family: Family) -> bool {
        let (public, inner) = (self.incoming.packet.source, self.inner_source());
        let lens = self.table.sets.values().filter_map(|set| match set.kind {
            SetKind::Subnets(of, len) if of == family => Some((set, len)),
            SetKind::Subnets(..)
            | SetKind::Addresses(_)
            | SetKind::Links
            | SetKind::Leases(_)
            | SetKind::Sources(..)
            | SetKind::Senders(_)
            | SetKind::Vnis
            | SetKind::Ports
            | SetKind::Vteps(_)
            | SetKind::Behind(..)
            | SetKind::Advertised(_)
            | SetKind::Within
            | SetKind::Seen(_)
            | SetKind::Claims(_) => None,
        });
        lens.into_iter().any(|(set, len)| {
            let subnet = inner.and_then(|inner| Prefix::new(inner, len).ok());
            subnet.is_some_and(|subnet| set.elements.contains(&Element::Subnet(public, subnet)))
        })
    }

    /// Whether a peer sends it. If the kernel holds no leases with the peers, its address alone tells.
    fn is_from_peer(&self, family: Family) -> bool {
        let is_leases = |kind| kind == SetKind::Leases(family);
        let is_held = self.sets(is_leases).next().is_some();
        let in_leases = || self.sets(is_leases).any(|elements| self.has_lease(elements));
        if is_held { self.is_in_subnets(family) || in_leases() } else { self.is_in_peers(family) }
    }

    fn has_lease(&self, elements: &imbl::OrdSet<Element>) -> bool {
        let Some(inner) = self.inner_source() else { return false };
        let subnets = (0..=Family::of(inner).bits()).filter_map(|len| Prefix::new(inner, len).ok());
        subnets.into_iter().any(|subnet| elements.contains(&Element::Lease(self.incoming.packet.source, subnet)))
    }

    fn is_in_peers(&self, family: Family) -> bool {
        let source = Element::Address(self.incoming.packet.source);
        self.sets(|kind| kind == SetKind::Addresses(family)).any(|elements| elements.contains(&source))
    }

    fn sets(&self, is_it: impl Fn(SetKind) -> bool) -> impl Iterator<Item = &imbl::OrdSet<Element>> {
        self.table.sets.values().filter(move |set| is_it(set.kind)).map(|set| &set.elements)
    }
}
