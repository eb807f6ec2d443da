//! Reads the packet filter, and applies changes to it.

mod counted;
mod flows;
mod leave;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use wire_net::{Family, Prefix};
use wire_state::{
    Attempt, ChainTable, ChainTableKind, ContainerLink, DataplaneError, Driver, ErrorKind, Firewall, FirewallOp,
    FirewallState, OpError, Operation as _, Rule, Table, TableName,
};

pub use self::counted::Counted;
use self::flows::Flows;
use super::{
    iptables, netfilter,
    netfilter::{Expressions, Netfilter},
    nft,
    policy::{ACCEPT_MARK, HostFacts, Nftables},
    program::{self, Listing, Programs, Variant},
    tracking,
};

/// The packet filter of this thread's network namespace.
pub struct FirewallDataplane {
    /// `None` until the socket could be opened: without nftables the rest of the agent still works.
    netfilter: Option<Netfilter>,
    families: Vec<Family>,
    /// The nftables generation of the last read, increased by one for each write of our own.
    generation: Option<u32>,
    /// The compiled expressions of our rules, as last known to be right.
    expressions: Expressions,
    programs: BTreeMap<Family, Programs>,
    /// The part of our table that nftables supports, as far as was tried.
    nftables: Nftables,
    /// The part that [`Self::host_facts`] returned last, and that is therefore tried now.
    tried: Nftables,
    /// Why nftables holds less than our whole table, and since when.
    nftables_error: Option<(Instant, OpError)>,
    flows: Flows,
    /// The parts that could not be read; nothing is written to them.
    unreadable: BTreeMap<Part, OpError>,
    others: Others,
    /// The families in which rules of others use connection tracking, and the nftables generation of that read,
    /// increased like `generation`.
    tracking_cache: Option<(u32, BTreeMap<Family, String>)>,
    /// The rules in `DOCKER-USER` by which operators drop packets.
    operators_drops: Vec<(Family, String)>,
    /// Called before each program run, which may take seconds.
    step: Box<dyn Fn() + Send>,
}

/// A part of the packet filter that is read on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Nftables,
    Iptables(Family),
    /// One table of iptables.
    Table(ChainTable),
}

/// Other firewalls of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// ufw's chains are there.
    pub ufw: bool,
    /// firewalld's table is there.
    pub firewalld: bool,
    /// Docker's chains of iptables are there.
    pub docker: bool,
}

/// After this time, what nftables refused is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

impl FirewallDataplane {
    /// Creates the dataplane of these families. Its socket is opened at the first use, in the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// Never at present: without netlink, the parts are unreadable.
    pub fn open(families: Vec<Family>) -> Result<Self, DataplaneError> {
        Ok(Self {
            netfilter: None,
            families,
            generation: None,
            expressions: Expressions::new(),
            programs: BTreeMap::new(),
            nftables: Nftables::Whole,
            tried: Nftables::Whole,
            nftables_error: None,
            flows: Flows::default(),
            unreadable: BTreeMap::new(),
            others: Others::default(),
            tracking_cache: None,
            operators_drops: Vec::new(),
            step: Box::new(|| ()),
        })
    }

    /// Calls `step` before each program run. iptables waits up to five seconds for its lock, and a round runs many
    /// programs.
    #[must_use]
    pub fn with_step(self, step: impl Fn() + Send + 'static) -> Self {
        Self { step: Box::new(step), ..self }
    }

    /// True if the packet filter may differ from the last read. Costs one small request. Always true with
    /// iptables-legacy, which sends no notifications.
    pub fn has_changed(&mut self) -> bool {
        let legacy = self.programs.values().any(|programs| programs.variant == Variant::Legacy);
        legacy
            || !self.unreadable.is_empty()
            || self.generation.is_none()
            || self.have_flowtables_changed()
            || self.netfilter().and_then(Netfilter::generation).ok() != self.generation
    }

    /// Collects the facts of this host that the rules depend on. Those of `links` with an address in one of `subnets`
    /// are the bridges, whatever their names.
    pub fn host_facts(&mut self, links: Vec<ContainerLink>, subnets: &[Prefix]) -> HostFacts {
        let bridges = links.iter().filter(|link| link.holds(subnets)).map(|link| link.name).collect();
        // If nftables cannot be read, Docker has no rules there.
        let docker = self.netfilter().and_then(|netfilter| netfilter.docker(ACCEPT_MARK)).unwrap_or_default();
        if self.nftables_error.as_ref().is_some_and(|(since, _)| since.elapsed() > RETRY_PAUSE) {
            // nft may have been installed since, or a module loaded.
            self.nftables = Nftables::Whole;
        }
        self.tried = self.nftables;
        let tracked = self.tracked();
        HostFacts {
            bridges,
            links,
            docker,
            nftables: self.nftables,
            tracked,
            doubted: BTreeSet::new(),
            hookable: BTreeSet::new(),
        }
    }

    /// The families whose encapsulated packets must stay tracked for rules of others, and why. These rules are read
    /// again only when the generation has changed.
    fn tracked(&mut self) -> BTreeMap<Family, String> {
        let now = self.netfilter().and_then(Netfilter::generation).ok();
        if now.is_none() || self.tracking_cache.as_ref().map(|(generation, _)| *generation) != now {
            let chains = self.netfilter().and_then(Netfilter::chains_of_others);
            self.tracking_cache = now.zip(chains.ok().map(|chains| tracking::needed(&chains)));
        }
        let mut tracked = match &self.tracking_cache {
            Some((_, tracked)) => tracked.clone(),
            None => Family::ALL.map(|family| (family, "the rules of others cannot be read".to_owned())).into(),
        };
        for family in Family::ALL.into_iter().filter(|family| program::may_have_legacy_tables(*family)) {
            tracked.entry(family).or_insert_with(|| "the rules in iptables-legacy are not read".to_owned());
        }
        tracked
    }

    /// The other firewalls that the last read found.
    #[must_use]
    pub const fn others(&self) -> Others {
        self.others
    }

    /// The rules in `DOCKER-USER` by which operators drop packets, from the last read.
    #[must_use]
    pub fn operators_drops(&self) -> &[(Family, String)] {
        &self.operators_drops
    }

    /// True if Docker's chains may be in iptables-legacy, which only root can read: the last read found none elsewhere.
    #[must_use]
    pub fn hides_docker(&self) -> bool {
        !self.others.docker && self.programs.keys().any(|family| program::hides_legacy_tables(*family))
    }

    fn netfilter(&mut self) -> Result<&mut Netfilter, DataplaneError> {
        if self.netfilter.is_none() {
            self.netfilter = Some(Netfilter::open()?);
        }
        Ok(self.netfilter.as_mut().expect("it was opened above"))
    }

    fn read_nftables(&mut self, firewall: &mut FirewallState) -> Result<netfilter::Tables, DataplaneError> {
        let tables = self.netfilter()?.tables()?;
        self.others.firewalld = netfilter::has_firewalld(&tables);
        for name in tables.iter().filter_map(|(family, name)| netfilter::table_name(*family, name)) {
            let table = match name {
                TableName::Ours => self.read_ours()?,
                TableName::Flannel(_) => Table::default(),
            };
            firewall.tables.insert(name, table);
        }
        Ok(tables)
    }

    /// Reads our table. A rule with our mark but other expressions than ours was altered by somebody else.
    fn read_ours(&mut self) -> Result<Table, DataplaneError> {
        let (mut table, expressions) = self.netfilter()?.table()?;
        for rule in table.chains.values_mut().flat_map(|chain| &mut chain.rules) {
            let differs = |known: &Vec<u8>| expressions.get(&rule.mark) != Some(known);
            if self.expressions.get(&rule.mark).is_some_and(differs) {
                *rule = Rule { mark: "altered".to_owned(), text: String::new() };
            }
        }
        self.flows.read.clone_from(&table.flowtables);
        for (mark, bytes) in expressions {
            self.expressions.entry(mark).or_insert(bytes);
        }
        Ok(table)
    }

    fn read_iptables(&mut self, tables: &netfilter::Tables, firewall: &mut FirewallState) {
        self.programs.clear();
        (self.others.ufw, self.others.docker) = (false, false);
        self.operators_drops.clear();
        for family in self.families.clone() {
            let has_tables = tables.iter().any(|(of, name)| is_iptables(*of, name, family));
            match self.list(family, has_tables) {
                Ok((Listing { programs, text }, hidden)) => {
                    iptables::read(&text, family, firewall);
                    firewall.chains.retain(|name, _| !hidden.contains(&name.table));
                    self.unreadable.extend(hidden.into_iter().map(|table| (Part::Table(table), hides_rules(table))));
                    self.others.ufw |= iptables::has_chain(&text, "ufw-user-input");
                    self.others.docker |= iptables::has_chain(&text, "DOCKER");
                    let drops = iptables::operators_drops(&text).map(|rule| (family, rule.to_owned()));
                    self.operators_drops.extend(drops);
                    self.programs.insert(family, programs);
                }
                Err(error) => {
                    self.unreadable.insert(Part::Iptables(family), error);
                }
            }
        }
    }

    /// Lists the rules of one family, and the tables that are not listed completely: iptables-nft silently leaves out
    /// what it does not understand, or the whole table. Writing to such a table would add our rules at every round.
    fn list(&mut self, family: Family, has_tables: bool) -> Result<(Listing, Vec<ChainTable>), OpError> {
        let mut listing = program::list(family, has_tables, &self.step)?;
        let mut hidden = self.hidden(family, &listing);
        for _ in 0..2 {
            if hidden.is_empty() {
                break;
            }
            // Somebody may have changed rules between the two reads.
            listing = program::list(family, has_tables, &self.step)?;
            hidden = self.hidden(family, &listing);
        }
        Ok((listing, hidden))
    }

    fn hidden(&mut self, family: Family, listing: &Listing) -> Vec<ChainTable> {
        if listing.programs.variant == Variant::Legacy {
            return Vec::new();
        }
        let there = self.netfilter().and_then(|netfilter| netfilter.rules_by_table(family)).unwrap_or_default();
        let shown = iptables::count(&listing.text);
        let hidden = ChainTableKind::ALL.into_iter().filter(|kind| !is_listed_whole(*kind, &there, &shown));
        hidden.map(|kind| ChainTable { family, kind }).collect()
    }

    fn carry_out(&mut self, op: &FirewallOp) -> Attempt {
        let parts = match op {
            FirewallOp::PutTable(_) | FirewallOp::ChangeSets(_) | FirewallOp::DeleteTable(_) => vec![Part::Nftables],
            FirewallOp::PutChains(table, _) => vec![Part::Iptables(table.family), Part::Table(*table)],
            FirewallOp::DeleteChain(name, _) => vec![Part::Iptables(name.table.family), Part::Table(name.table)],
        };
        if let Some(error) = parts.iter().find_map(|part| self.unreadable.get(part)) {
            return Err(error.again());
        }
        (self.step)();
        let unread = || OpError::program(ErrorKind::Other, "it was not read".to_owned(), io::ErrorKind::Other.into());
        if let FirewallOp::ChangeSets(changes) = op {
            self.netfilter.as_mut().ok_or_else(unread)?.change_sets(changes)?;
        } else if let Some(script) = nft::script(op) {
            program::nft(&script)?;
        } else if let Some((table, input)) = iptables::script(op) {
            let programs = self.programs.get(&table.family).ok_or_else(unread)?;
            programs.restore(&input)?;
            if programs.variant == Variant::Legacy {
                return Ok(());
            }
        }
        self.generation = self.generation.map(|generation| generation.wrapping_add(1));
        if let Some((generation, _)) = &mut self.tracking_cache {
            *generation = generation.wrapping_add(1);
        }
        if let FirewallOp::PutTable(wanted) = op {
            // Remember the expressions that nft has compiled, while they are known to be right.
            let (made, expressions) = self.netfilter().and_then(Netfilter::table).unwrap_or_default();
            self.expressions = expressions;
            self.flows.read.clone_from(&made.flowtables);
            if made != *wanted {
                // Some versions before 1.0.6 do so with ranges in concatenations (its release notes).
                return Err(OpError::unsupported(
                    "nft did not write the table as it was given: a newer nftables is needed",
                ));
            }
        }
        Ok(())
    }
}

impl Driver for FirewallDataplane {
    type Resource = Firewall;

    fn read(&mut self, (): &()) -> Result<FirewallState, DataplaneError> {
        self.unreadable.clear();
        let mut firewall = FirewallState::default();
        // Read first: a change during this read then differs from it, and leads to another read.
        self.generation = self.netfilter().and_then(Netfilter::generation).ok();
        let tables = self.read_nftables(&mut firewall).unwrap_or_else(|error| {
            let source = io::Error::other(wire_net::chain(&error));
            let detail = "nftables cannot be read: is the module nf_tables loaded?".to_owned();
            self.unreadable.insert(Part::Nftables, OpError::program(ErrorKind::Unsupported, detail, source));
            netfilter::Tables::new()
        });
        self.read_iptables(&tables, &mut firewall);
        Ok(firewall)
    }

    /// Applies the operations in order. After a failure nothing is deleted: old rules stay until the new ones are in
    /// place.
    fn apply(&mut self, ops: &[FirewallOp]) -> Vec<Attempt> {
        let mut standing = true;
        let mut attempts = Vec::with_capacity(ops.len());
        for op in ops {
            let attempt = if op.is_delete() && !standing {
                let detail = "it is kept until wire-agent's own rules are in place".to_owned();
                Err(OpError::program(ErrorKind::Busy, detail, io::ErrorKind::ResourceBusy.into()))
            } else {
                self.carry_out(op)
            };
            standing &= attempt.is_ok();
            if let FirewallOp::PutTable(table) = op
                && !self.flows.have_failed(table, attempt.as_ref().err())
            {
                self.learn(attempt.as_ref().err());
            }
            attempts.push(attempt);
        }
        attempts
    }
}

/// True if a listing shows as many rules of a table as the kernel has.
fn is_listed_whole(kind: ChainTableKind, there: &BTreeMap<String, usize>, shown: &BTreeMap<&str, usize>) -> bool {
    let name = kind.to_string();
    there.get(&name).copied().unwrap_or_default() == shown.get(name.as_str()).copied().unwrap_or_default()
}

/// True if an nftables table has the family and the name of one of iptables-nft.
fn is_iptables(of: u8, name: &str, family: Family) -> bool {
    of == netfilter::number(family) && ["raw", "mangle", "nat", "filter", "security"].contains(&name)
}

fn hides_rules(table: ChainTable) -> OpError {
    let detail = format!(
        "{table} holds rules that iptables does not show, put there by nft: move them to a table of their own \
         (nft list table {} {})",
        match table.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        },
        table.kind
    );
    OpError::program(ErrorKind::Program, detail, io::ErrorKind::Unsupported.into())
}
