//! Reads our chains in the variant of iptables that is not in use.

use wire_net::Family;
use wire_state::{ErrorKind, ObservedFirewall, OpError};

use super::FirewallDataplane;
use crate::{
    iptables,
    program::{self, Programs, Variant},
};

impl FirewallDataplane {
    /// The error of the last read for the variant of iptables that is not in use. It may hold chains of ours then.
    #[must_use]
    pub const fn abandoned_unread(&self) -> Option<&OpError> {
        self.abandoned_unread.as_ref()
    }

    /// Reads our chains in the variant of iptables that is not in use, in one family. If they cannot be listed, the error is kept: the
    /// rest of the packet filter does not depend on them.
    pub(super) fn read_abandoned(&mut self, family: Family, used: &Programs, firewall: &mut ObservedFirewall) {
        match self.list_abandoned(family, &used.other(family)) {
            Ok(listed) => {
                let mut other = ObservedFirewall::default();
                iptables::read(&listed, family, &self.network, &mut other);
                firewall.abandoned.extend(other.chains.into_iter().filter(|(name, _)| name.is_ours()));
            }
            Err(error) => {
                self.abandoned_unread.get_or_insert(error);
            }
        }
    }

    /// Lists the rules of a variant that is not in use, if it may hold ours. One that is not installed holds nothing of ours.
    fn list_abandoned(&mut self, family: Family, other: &Programs) -> Result<String, OpError> {
        let may_hold_ours = match other.variant {
            Variant::Nft => self.netfilter().and_then(|filter| filter.has_our_chains(family)).unwrap_or_default(),
            Variant::Legacy => program::has_legacy_tables(family),
        };
        if !may_hold_ours {
            return Ok(String::new());
        }
        (self.step)();
        match other.save() {
            Err(error) if error.kind == ErrorKind::NoProgram => Ok(String::new()),
            listed => listed,
        }
    }
}
