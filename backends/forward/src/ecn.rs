//! Congestion marks across the tunnel (ECN, by RFC 6040). Pure.
//!
//! On the way out the outer header gets the inner one's codepoint: normal mode (§4.1), which lets routers of the underlay
//! mark instead of drop. On the way in both are combined (§4.2), so that such a mark reaches the end that can slow down.

use wire_net::Family;

use super::{
    checksum::fold,
    counters::DropReason,
    packet::{Header, be16, put16},
};

/// The two lowest bits of the TOS or traffic class (RFC 3168 §5).
const MASK: u8 = 0b11;

/// A codepoint (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ecn {
    /// The ends do not support ECN: congestion is signalled by a drop.
    #[default]
    NotEct = 0b00,
    /// ECT(1): the ends support ECN.
    Ect1 = 0b01,
    /// ECT(0): the same.
    Ect0 = 0b10,
    /// A router was congested.
    Ce = 0b11,
}

impl Ecn {
    /// The codepoint of a TOS or traffic class.
    #[inline]
    pub(crate) const fn of_class(class: u8) -> Self {
        match class & MASK {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The codepoint of a packet.
    #[inline]
    pub(crate) fn of(header: &Header, packet: &[u8]) -> Self {
        match header.family {
            Family::V4 => Self::of_class(packet[1]),
            Family::V6 => Self::of_class(packet[1] >> 4),
        }
    }

    /// Its two bits, as a TOS or traffic class without anything else.
    pub(crate) const fn bits(self) -> u8 {
        self as u8
    }

    /// Combines the outer codepoint `self` with the inner one (RFC 6040 §4.2, figure 4). `None` if the packet must be
    /// dropped: its ends would not understand the mark.
    #[inline]
    pub(crate) const fn combined(self, inner: Self) -> Option<Self> {
        match (self, inner) {
            (Self::Ce, Self::NotEct) => None,
            (Self::Ce, Self::Ect0 | Self::Ect1 | Self::Ce) => Some(Self::Ce),
            (Self::Ect1, Self::Ect0) => Some(Self::Ect1),
            (Self::NotEct | Self::Ect0 | Self::Ect1, inner) => Some(inner),
        }
    }

    /// Applies the outer codepoint `self` to a decapsulated packet.
    ///
    /// # Errors
    /// When the packet must be dropped.
    #[inline]
    pub(crate) fn pass_on(self, header: &Header, packet: &mut [u8]) -> Result<(), DropReason> {
        // Most packets: there is no mark, and the inner codepoint does not change.
        if matches!(self, Self::NotEct | Self::Ect0) {
            return Ok(());
        }
        let inner = Self::of(header, packet);
        let combined = self.combined(inner).ok_or(DropReason::Congestion)?;
        if combined != inner {
            combined.write(header, packet);
        }
        Ok(())
    }

    /// Sets the codepoint of a packet. A wrong checksum stays wrong.
    fn write(self, header: &Header, packet: &mut [u8]) {
        match header.family {
            Family::V4 => {
                let before = be16(packet, 0);
                packet[1] = packet[1] & !MASK | self.bits();
                // RFC 1624, equation 3.
                let sum = [!be16(packet, 10), !before, be16(packet, 0)].map(u64::from).iter().sum();
                put16(packet, 10, !fold(sum));
            }
            Family::V6 => packet[1] = packet[1] & !(MASK << 4) | self.bits() << 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{checksum::sum, packet::set_header_checksum};

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

    fn packet(family: Family, ecn: Ecn, noise: &[u8; 40]) -> (Header, Vec<u8>) {
        let mut bytes = noise.to_vec();
        match family {
            Family::V4 => {
                (bytes[0], bytes[1]) = (0x45, noise[1] & !MASK | ecn.bits());
                put16(&mut bytes, 2, 40);
                put16(&mut bytes, 6, 0);
            }
            Family::V6 => {
                (bytes[0], bytes[1]) = (0x60 | noise[0] & 15, noise[1] & 0xcf | ecn.bits() << 4);
                put16(&mut bytes, 4, 0);
            }
        }
        let header = Header::parse(&bytes).unwrap();
        set_header_checksum(&header, &mut bytes);
        (header, bytes)
    }

    /// RFC 6040, figure 4: outer and inner codepoint, and their combination.
    #[test]
    fn each_of_the_sixteen_combinations_is_that_of_rfc_6040() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let figure = [
            (NotEct, [(NotEct, Some(NotEct)), (Ect0, Some(Ect0)), (Ect1, Some(Ect1)), (Ce, Some(Ce))]),
            (Ect0, [(NotEct, Some(NotEct)), (Ect0, Some(Ect0)), (Ect1, Some(Ect1)), (Ce, Some(Ce))]),
            (Ect1, [(NotEct, Some(NotEct)), (Ect0, Some(Ect1)), (Ect1, Some(Ect1)), (Ce, Some(Ce))]),
            (Ce, [(NotEct, None), (Ect0, Some(Ce)), (Ect1, Some(Ce)), (Ce, Some(Ce))]),
        ];
        for (outer, row) in figure {
            for (inner, expected) in row {
                assert_eq!(outer.combined(inner), expected, "{inner:?} within {outer:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_mark_is_passed_on_and_nothing_else_of_the_packet_changes(noise in any::<[u8; 40]>()) {
            for (family, outer, inner) in
                [Family::V4, Family::V6].into_iter().flat_map(|family| ALL.map(|outer| ALL.map(|inner| (family, outer, inner)))).flatten()
            {
                let (header, mut bytes) = packet(family, inner, &noise);
                let passed = outer.pass_on(&header, &mut bytes);
                match outer.combined(inner) {
                    None => prop_assert_eq!(passed, Err(DropReason::Congestion)),
                    Some(combined) => {
                        prop_assert_eq!(passed, Ok(()));
                        let (_, expected) = packet(family, combined, &noise);
                        if family == Family::V4 {
                            prop_assert_eq!(fold(sum(&bytes[..20])), 0xffff, "the checksum");
                            // 0 has two forms in one's complement.
                            bytes[10..12].copy_from_slice(&expected[10..12]);
                        }
                        prop_assert_eq!(&bytes, &expected);
                    }
                }
            }
        }

        #[test]
        fn a_wrong_checksum_is_not_made_right(noise in any::<[u8; 40]>(), by in 1u8..0xff) {
            let (header, mut bytes) = packet(Family::V4, Ecn::Ect0, &noise);
            bytes[10] ^= by;
            let wrong = fold(sum(&bytes[..20])) != 0xffff;
            Ecn::Ce.pass_on(&header, &mut bytes).unwrap();
            prop_assert_eq!(fold(sum(&bytes[..20])) != 0xffff, wrong);
        }
    }
}
