//! Reading the packet filter, and carrying out changes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use wire_lease::{Family, Prefix};

use super::{
    iptables, netfilter,
    netfilter::{Expressions, Netfilter},
    nft,
    op::FirewallOp,
    policy::{ACCEPT_MARK, Surroundings},
    program::{self, Listing, Programs, Variant},
    side::counter,
    state::{Element, Firewall, Rule, Table, TableName},
};
use crate::{
    Attempt, Dataplane, DataplaneError, ErrorKind, NetState, Op, OpError, Scope,
    dataplane::{holders, socket::Netlink},
};

/// The packet filter of this thread's network namespace. It writes nothing of the rest of a [`NetState`], and reads nothing
/// of it.
pub struct FirewallDataplane {
    netlink: Netlink,
    /// `None` until the kernel gives one: without nftables the rest of the agent works all the same.
    netfilter: Option<Netfilter>,
    families: Vec<Family>,
    /// The generation of nftables that the last read, brought forward by our own writes, is of.
    generation: Option<u32>,
    /// Our rules as they were when they were right.
    expressions: Expressions,
    programs: BTreeMap<Family, Programs>,
    /// What could not be read: nothing is written there either.
    unreadable: BTreeMap<Part, OpError>,
    others: Others,
}

/// What is read by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Nftables,
    Iptables(Family),
}

/// Other firewalls of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// ufw's chains are there.
    pub ufw: bool,
    /// firewalld's table is there.
    pub firewalld: bool,
}

/// What our table has counted since it was put there, in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Encapsulated packets that were dropped since their sender has no lease.
    pub strangers: u64,
    /// Some of those senders of the last hour.
    pub senders: BTreeSet<IpAddr>,
    /// Encapsulated packets that were dropped since a container sent them.
    pub containers: u64,
    /// Packets of peers that were dropped since their inner source is none that the peer may have.
    pub spoofed: u64,
    /// Encapsulated packets we let in.
    pub arrived: u64,
    /// Encapsulated packets that all others let in too.
    pub delivered: u64,
}

impl FirewallDataplane {
    /// Opens its socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn open(families: Vec<Family>) -> Result<Self, DataplaneError> {
        Ok(Self {
            netlink: Netlink::open()?,
            netfilter: None,
            families,
            generation: None,
            expressions: Expressions::new(),
            programs: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            others: Others::default(),
        })
    }

    /// Whether anything may be otherwise than was read last. Costs one small request, except with iptables-legacy, of which
    /// nothing tells.
    pub fn has_changed(&mut self) -> bool {
        let legacy = self.programs.values().any(|programs| programs.variant == Variant::Legacy);
        legacy
            || !self.unreadable.is_empty()
            || self.generation.is_none()
            || self.netfilter().and_then(Netfilter::generation).ok() != self.generation
    }

    /// What the host around us has; bridges are the links that hold addresses of these subnets, whatever they are called.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn surroundings(&mut self, subnets: &[Prefix]) -> Result<Surroundings, DataplaneError> {
        let bridges = holders(&mut self.netlink, subnets)?;
        // Where nftables cannot be asked, Docker has nothing in them.
        let docker = self.netfilter().and_then(|netfilter| netfilter.docker(ACCEPT_MARK)).unwrap_or_default();
        Ok(Surroundings { bridges, docker })
    }

    /// What our table has counted.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn counted(&mut self) -> Result<Counted, DataplaneError> {
        let counters = self.netfilter()?.counters()?;
        let of = |name| counters.get(name).copied().unwrap_or_default();
        let mut counted = Counted {
            strangers: of(counter::STRANGERS),
            senders: BTreeSet::new(),
            containers: of(counter::CONTAINERS),
            spoofed: of(counter::SPOOFED),
            arrived: of(counter::ARRIVED),
            delivered: of(counter::DELIVERED),
        };
        if counted.strangers > 0 {
            for set in ["strangers-v4", "strangers-v6"] {
                let noted = self.netfilter()?.noted(set)?;
                counted.senders.extend(noted.into_iter().filter_map(|element| match element {
                    Element::Address(address) => Some(address),
                    Element::Link(_) | Element::Lease(..) => None,
                }));
            }
        }
        Ok(counted)
    }

    /// Which other firewalls were seen at the last read.
    #[must_use]
    pub const fn others(&self) -> Others {
        self.others
    }

    fn netfilter(&mut self) -> Result<&mut Netfilter, DataplaneError> {
        if self.netfilter.is_none() {
            self.netfilter = Some(Netfilter::open()?);
        }
        Ok(self.netfilter.as_mut().expect("it was opened above"))
    }

    fn read_nftables(&mut self, firewall: &mut Firewall) -> Result<netfilter::Tables, DataplaneError> {
        let tables = self.netfilter()?.tables()?;
        self.others.firewalld = netfilter::has_firewalld(&tables);
        for name in tables.iter().filter_map(|(family, name)| TableName::of(*family, name)) {
            let table = match name {
                TableName::Ours => self.read_ours()?,
                TableName::Flannel(_) => Table::default(),
            };
            firewall.tables.insert(name, table);
        }
        Ok(tables)
    }

    /// Our table. A rule with our mark whose expressions are no longer what they were is somebody else's.
    fn read_ours(&mut self) -> Result<Table, DataplaneError> {
        let (mut table, expressions) = self.netfilter()?.table()?;
        for rule in table.chains.values_mut().flat_map(|chain| &mut chain.rules) {
            let differs = |known: &Vec<u8>| expressions.get(&rule.mark) != Some(known);
            if self.expressions.get(&rule.mark).is_some_and(differs) {
                *rule = Rule { mark: "altered".to_owned(), text: String::new() };
            }
        }
        for (mark, bytes) in expressions {
            self.expressions.entry(mark).or_insert(bytes);
        }
        Ok(table)
    }

    fn read_iptables(&mut self, tables: &netfilter::Tables, firewall: &mut Firewall) {
        self.programs.clear();
        self.others.ufw = false;
        for family in self.families.clone() {
            let has_tables = tables.iter().any(|(of, name)| is_iptables(*of, name, family));
            match program::list(family, has_tables) {
                Ok(Listing { programs, text }) => {
                    iptables::read(&text, family, firewall);
                    self.others.ufw |= iptables::has_chain(&text, "ufw-user-input");
                    self.programs.insert(family, programs);
                }
                Err(error) => {
                    self.unreadable.insert(Part::Iptables(family), error);
                }
            }
        }
    }

    fn carry_out(&mut self, op: &FirewallOp) -> Attempt {
        let part = match op {
            FirewallOp::PutTable(_) | FirewallOp::ChangeSets(_) | FirewallOp::DeleteTable(_) => Part::Nftables,
            FirewallOp::PutChains(table, _) => Part::Iptables(table.family),
            FirewallOp::DeleteChain(name, _) => Part::Iptables(name.table.family),
        };
        if let Some(error) = self.unreadable.get(&part) {
            return Err(error.again());
        }
        if let Some(script) = nft::script(op) {
            program::nft(&script)?;
        } else if let Some((table, input)) = iptables::script(op) {
            let programs = self.programs.get(&table.family);
            let unread =
                || OpError::program(ErrorKind::Other, "it was not read".to_owned(), io::ErrorKind::Other.into());
            let programs = programs.ok_or_else(unread)?;
            programs.restore(&input)?;
            if programs.variant == Variant::Legacy {
                return Ok(());
            }
        }
        self.generation = self.generation.map(|generation| generation.wrapping_add(1));
        if matches!(op, FirewallOp::PutTable(_)) {
            // What nft makes of our rules is learned now, while it is right.
            self.expressions =
                self.netfilter().and_then(Netfilter::table).map(|(_, expressions)| expressions).unwrap_or_default();
        }
        Ok(())
    }
}

impl Dataplane for FirewallDataplane {
    fn read(&mut self, _: &Scope) -> Result<NetState, DataplaneError> {
        self.unreadable.clear();
        let mut firewall = Firewall::default();
        // Before all else: what changes meanwhile is read again.
        self.generation = self.netfilter().and_then(Netfilter::generation).ok();
        let tables = self.read_nftables(&mut firewall).unwrap_or_else(|error| {
            let source = io::Error::other(wire_lease::chain(&error));
            let detail = "nftables cannot be read: is the module nf_tables loaded?".to_owned();
            self.unreadable.insert(Part::Nftables, OpError::program(ErrorKind::Unsupported, detail, source));
            netfilter::Tables::new()
        });
        self.read_iptables(&tables, &mut firewall);
        Ok(NetState { firewall, ..NetState::default() })
    }

    /// What is to go stays until what is to come stands.
    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let mut standing = true;
        let mut attempts = Vec::with_capacity(ops.len());
        for op in ops {
            let attempt = match op {
                Op::Firewall(op) if op.is_delete() && !standing => {
                    let detail = "it stays until ours stand".to_owned();
                    Err(OpError::program(ErrorKind::Busy, detail, io::ErrorKind::ResourceBusy.into()))
                }
                Op::Firewall(op) => self.carry_out(op),
                // That is NetlinkDataplane's to do.
                _ => Err(OpError::program(ErrorKind::Unsupported, op.to_string(), io::ErrorKind::Unsupported.into())),
            };
            standing &= attempt.is_ok();
            attempts.push(attempt);
        }
        attempts
    }
}

/// Whether a table of nftables may be one of iptables-nft's.
fn is_iptables(of: u8, name: &str, family: Family) -> bool {
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    of == number && ["raw", "mangle", "nat", "filter", "security"].contains(&name)
}
