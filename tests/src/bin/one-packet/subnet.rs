//! Subnets of either family.

use std::net::IpAddr;

/// A subnet. Bits behind its length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subnet {
    /// IPv4.
    V4 {
        /// Its first address.
        network: u32,
        /// Ones where its addresses agree.
        mask: u32,
    },
    /// IPv6.
    V6 {
        /// Its first address.
        network: u128,
        /// Ones where its addresses agree.
        mask: u128,
    },
}

impl Subnet {
    /// Reads `10.5.1.0/24` or `fd00:5::/64`; `None` where it is neither, or has bits behind its length.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let length: u32 = length.parse().ok()?;
        match address.parse().ok()? {
            IpAddr::V4(address) => {
                let (network, mask) =
                    (address.to_bits(), u32::MAX.checked_shl(32_u32.checked_sub(length)?).unwrap_or(0));
                (network & !mask == 0).then_some(Self::V4 { network, mask })
            }
            IpAddr::V6(address) => {
                let (network, mask) =
                    (address.to_bits(), u128::MAX.checked_shl(128_u32.checked_sub(length)?).unwrap_or(0));
                (network & !mask == 0).then_some(Self::V6 { network, mask })
            }
        }
    }

    /// Whether an address lies in it.
    pub(crate) const fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4 { network, mask }, IpAddr::V4(address)) => address.to_bits() & mask == network,
            (Self::V6 { network, mask }, IpAddr::V6(address)) => address.to_bits() & mask == network,
            (Self::V4 { .. }, IpAddr::V6(_)) | (Self::V6 { .. }, IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_holds_its_own_addresses_and_no_others() {
        let holds = |subnet: &str, address: &str| Subnet::parse(subnet).unwrap().contains(address.parse().unwrap());
        assert!(holds("10.5.1.0/24", "10.5.1.255"));
        assert!(!holds("10.5.1.0/24", "10.5.2.0"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(holds("10.5.1.7/32", "10.5.1.7"));
        assert!(holds("fd00:5::/64", "fd00:5::ffff"));
        assert!(!holds("fd00:5::/64", "fd00:5:0:1::"));
        assert!(!holds("0.0.0.0/0", "::"));
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for wrong in ["10.5.1.0", "10.5.1.1/24", "10.5.1.0/33", "fd00::/129", "fd00::1/64", "/24", "10.5.1.0/"] {
            assert_eq!(Subnet::parse(wrong), None, "{wrong}");
        }
    }
}
