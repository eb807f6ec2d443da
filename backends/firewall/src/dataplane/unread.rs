//! The parts of the packet filter that could not be read.

use wire_state::{ErrorKind, OpError};

use super::{FirewallDataplane, Part};

impl FirewallDataplane {
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
