//! Reads nftables and iptables.

use std::{collections::BTreeMap, io};

use wire_net::Family;
use wire_state::{
    ChainTable, ChainTableKind, DataplaneError, ErrorKind, ObservedFirewall, ObservedRule, ObservedTable, OpError,
    OurTable, TableName,
};

use super::{FirewallDataplane, Part};
use crate::{
    iptables, netfilter,
    program::{self, Listing, Variant},
};

impl FirewallDataplane {
    pub(super) fn read_nftables(
        &mut self,
        firewall: &mut ObservedFirewall,
    ) -> Result<netfilter::Tables, DataplaneError> {
        self.flowtables.clear();
        let tables = self.netfilter()?.tables()?;
        firewall.others.firewalls.firewalld = netfilter::has_firewalld(&tables);
        let network = self.network.clone();
        for name in tables.iter().filter_map(|(family, name)| netfilter::table_name(&network, *family, name)) {
            match name {
                TableName::Ours(name) => {
                    let table = self.read_ours(&name)?;
                    *firewall.slot(name.family) = Some(table);
                }
                TableName::Flannel(family) => {
                    firewall.flannel_tables.insert(family);
                }
            }
        }
        Ok(tables)
    }

    /// Reads a table of ours.
    fn read_ours(&mut self, name: &OurTable) -> Result<ObservedTable, DataplaneError> {
        let (mut table, expressions) = self.netfilter()?.table(name)?;
        self.flowtables.insert(name.clone(), table.flowtables.clone());
        let known = self.expressions.entry(name.clone()).or_default();
        for rule in table.chains.values_mut().flat_map(|chain| &mut chain.rules) {
            let ObservedRule::Marked(mark) = rule else { continue };
            if known.get(mark).is_some_and(|known| expressions.get(mark) != Some(known)) {
                *rule = ObservedRule::Altered;
            }
        }
        for (mark, bytes) in expressions {
            known.entry(mark).or_insert(bytes);
        }
        Ok(table)
    }

    pub(super) fn read_iptables(&mut self, tables: &netfilter::Tables, firewall: &mut ObservedFirewall) {
        self.programs.clear();
        for family in self.families.clone() {
            let has_tables = tables.iter().any(|(of, name)| is_iptables(*of, name, family));
            match self.list(family, has_tables) {
                Ok((Listing { programs, text }, hidden)) => {
                    iptables::read(&text, family, &self.network, firewall);
                    firewall.chains.retain(|name, _| !hidden.contains(&name.table));
                    self.unreadable.extend(hidden.into_iter().map(|table| (Part::Table(table), hides_rules(table))));
                    self.read_abandoned(family, &programs, firewall);
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
