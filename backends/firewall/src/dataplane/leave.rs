//! Removes what the reconciler does not see of ours: chains in the iptables variant that is not in use, and tables left
//! empty.

use std::collections::BTreeSet;

use wire_state::{ChainTable, ErrorKind, ObservedFirewall, OpError};

use super::{FirewallDataplane, Part};
use crate::{
    iptables,
    program::{self, Variant},
};

impl FirewallDataplane {
    /// Removes our chains from the iptables variant that the last read did not use, and returns their number. They are
    /// left there when the host, or Docker, is switched between iptables-nft and iptables-legacy.
    ///
    /// # Errors
    /// When a program of that variant fails. A variant that is not installed holds nothing of ours.
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
            let mut firewall = ObservedFirewall::default();
            iptables::read(&listed, family, &mut firewall);
            for (name, chain) in firewall.chains.into_iter().filter(|(name, _)| name.is_ours()) {
                (self.step)();
                other.restore(&iptables::delete(&name, &chain))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Deletes the tables that had chains of ours and are now empty: iptables-nft creates a table with its first chain,
    /// and never deletes one.
    pub fn remove_bare_tables(&mut self, had: &ObservedFirewall) {
        let tables: BTreeSet<ChainTable> =
            had.chains.keys().filter(|name| name.is_ours()).map(|name| name.table).collect();
        for ChainTable { family, kind } in tables {
            if let Ok(netfilter) = self.netfilter() {
                netfilter.delete_bare(family, &kind.to_string());
            }
        }
    }

    /// The error of a part that the last read could not read, and that may hold rules of ours.
    pub fn unread(&mut self) -> Option<OpError> {
        let unread: Vec<(Part, OpError)> = self.unreadable.iter().map(|(part, error)| (*part, error.again())).collect();
        unread.into_iter().find(|(part, error)| self.may_hold_ours(*part, error.kind)).map(|(_, error)| error)
    }

    /// A packet filter that the kernel lacks holds nothing of ours. If only its programs are missing, it may.
    fn may_hold_ours(&mut self, part: Part, why: ErrorKind) -> bool {
        match part {
            Part::Nftables | Part::Iptables(_) | Part::Table(_) if why == ErrorKind::Unsupported => false,
            Part::Iptables(family) if why == ErrorKind::NoProgram => {
                self.netfilter().and_then(|filter| filter.has_our_chains(family)).unwrap_or_default()
            }
            Part::Nftables | Part::Iptables(_) | Part::Table(_) => true,
        }
    }
}
