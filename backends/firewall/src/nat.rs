//! Source NAT, as rules for either packet filter: those of flannel's chain FLANNEL-POSTRTG, except that within the overlay
//! a packet keeps its source whatever rules of others follow. Pure.

use wire_net::{Family, LinkName, Prefix};

use super::{
    address_range::AddressRange,
    common_rule::{CommonRule, Conditions, RangeMatch, Verdict},
    family_rules::FamilyRules,
    policy::Masquerade,
    rule::SourcePort,
};

/// By flannel's and kube-proxy's convention packets with this mark are masqueraded by others.
const KUBE_MARK: u32 = 0x4000;

/// Leaves packets alone that others masquerade, known by their mark.
pub(super) fn marked_for_others() -> CommonRule {
    let conditions = Conditions { mark: Some(KUBE_MARK), ..Conditions::default() };
    CommonRule { purpose: "marked for others", conditions, verdict: Verdict::Return }
}

impl FamilyRules {
    /// The rules of one family, to be put behind [`marked_for_others`].
    pub(super) fn nat(&self, masquerade: Masquerade) -> Vec<CommonRule> {
        let own = RangeMatch::inside(self.own);
        // A container that calls its own published port needs Docker's rule for masquerading.
        let local = Conditions { source: own, destination: own, ..Conditions::default() };
        let out = Conditions { source: own, destination: RangeMatch::inside(self.overlay), ..Conditions::default() };
        let back = Conditions { source: RangeMatch::inside(self.network), destination: own, ..Conditions::default() };
        let mut rules = vec![
            CommonRule { purpose: "within this host", conditions: local, verdict: Verdict::Return },
            self.keep_source(out),
            self.keep_source(back),
        ];
        rules.extend(self.beyond().map(|link| self.keep_source(self.out_by(link))));
        match masquerade {
            Masquerade::Off => {}
            Masquerade::Random => rules.extend(self.masquerade(SourcePort::Random)),
            Masquerade::Plain => rules.extend(self.masquerade(SourcePort::Kept)),
        }
        rules
    }

    /// Packets of containers here that leave by this link.
    fn out_by(&self, link: LinkName) -> Conditions {
        Conditions { source: RangeMatch::inside(self.own), outgoing: Some(link.into()), ..Conditions::default() }
    }

    const fn keep_source(&self, conditions: Conditions) -> CommonRule {
        CommonRule { purpose: "overlay keeps its sources", conditions, verdict: Verdict::KeepSource(self.family) }
    }

    /// Masquerades what leaves the overlay and what enters it, but what enters this host's own subnet: containers see who
    /// calls them.
    fn masquerade(&self, port: SourcePort) -> [CommonRule; 3] {
        let (overlay, outside) = (RangeMatch::inside(self.overlay), RangeMatch::outside(self.overlay));
        let to_own = Conditions {
            source: RangeMatch::outside(self.network),
            destination: RangeMatch::inside(self.own),
            ..Conditions::default()
        };
        let not_multicast = RangeMatch::outside(multicast(self.family));
        let leaving = Conditions { source: overlay, destination: not_multicast, ..Conditions::default() };
        let entering = Conditions { source: outside, destination: overlay, ..Conditions::default() };
        let verdict = Verdict::Masquerade(port);
        [
            CommonRule { purpose: "containers see who calls", conditions: to_own, verdict: Verdict::Return },
            CommonRule { purpose: "masquerade", conditions: leaving, verdict },
            CommonRule { purpose: "masquerade", conditions: entering, verdict },
        ]
    }

    /// The overlay devices, if the config bounds the range: leases from before may lie outside of the range, behind a
    /// device.
    pub(super) fn beyond(&self) -> impl Iterator<Item = LinkName> {
        let devices = match self.overlay {
            AddressRange::Prefix(_) => [None, None],
            AddressRange::Between { .. } => [self.device, self.beside],
        };
        devices.into_iter().flatten().map(|device| device.link)
    }
}

/// The addresses of multicast (RFC 5771, RFC 4291 §2.7).
fn multicast(family: Family) -> Prefix {
    let (first, len) = match family {
        Family::V4 => (0xe000_0000, 4),
        Family::V6 => (0xff << 120, 8),
    };
    Prefix::from_bits(family, first, len).expect("both lengths are within an address")
}
