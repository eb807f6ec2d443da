//! Taking away what is ours, where it is not the reconciler's: in the iptables that is not in use, and tables left empty.

use std::collections::BTreeSet;

use wire_state::{ErrorKind, OpError};

use wire_state::{ChainTable, FirewallOp, FirewallState, OURS};

use super::{FirewallDataplane, Part};
use crate::{
    iptables,
    program::{self, Variant},
};

impl FirewallDataplane {
    /// Removes our chains from the iptables that was not used at the last read: they stay there where the host, or Docker, was
    /// switched from iptables-nft to iptables-legacy or back. Says how many those were.
    ///
    /// # Errors
    /// When a program of that iptables fails. One that is not installed has nothing of ours.
    pub fn remove_from_other_iptables(&mut self) -> Result<usize, OpError> {
        let mut removed = 0;
        for (family, programs) in self.programs.clone() {
            let other = programs.other(family);
            let may_hold_ours = match other.variant {
                Variant::Nft => self.netfilter().and_then(|filter| filter.has_our_chains(family)).unwrap_or_default(),
                Variant::Legacy => program::has_legacy_tables(family),
            };
            if !may_hold_ours {
                continue;
            }
            (self.step)();
            let listed = match other.save() {
                Err(error) if error.kind == ErrorKind::NoProgram => continue,
                listed => listed?,
            };
            let mut firewall = FirewallState::default();
            iptables::read(&listed, family, &mut firewall);
            for (name, chain) in firewall.chains.into_iter().filter(|(name, _)| name.name.starts_with(OURS)) {
                (self.step)();
                if let Some((_, input)) = iptables::script(&FirewallOp::DeleteChain(name, chain)) {
                    other.restore(&input)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Deletes the tables that had chains of ours and by now hold nothing. iptables-nft makes a table with its first chain, and
    /// never removes one.
    pub fn remove_bare_tables(&mut self, had: &FirewallState) {
        let tables: BTreeSet<ChainTable> =
            had.chains.keys().filter(|name| name.name.starts_with(OURS)).map(|name| name.table).collect();
        for ChainTable { family, kind } in tables {
            if let Ok(netfilter) = self.netfilter() {
                netfilter.delete_bare(family, &kind.to_string());
            }
        }
    }

    /// What could not be read the last time, and may hold something of ours.
    pub fn unread(&mut self) -> Option<OpError> {
        let unread: Vec<(Part, OpError)> = self.unreadable.iter().map(|(part, error)| (*part, error.again())).collect();
        unread.into_iter().find(|(part, error)| self.may_hold_ours(*part, error.kind)).map(|(_, error)| error)
    }

    /// Where there is no such packet filter there is nothing of ours; where only its programs are gone there may be.
    fn may_hold_ours(&mut self, part: Part, why: ErrorKind) -> bool {
        match (why, part) {
            (ErrorKind::Unsupported, _) => false,
            (ErrorKind::NoProgram, Part::Iptables(family)) => {
                self.netfilter().and_then(|filter| filter.has_our_chains(family)).unwrap_or_default()
            }
            _ => true,
        }
    }
}
