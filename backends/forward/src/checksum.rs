//! The Internet checksum (RFC 1071), in the machine's own byte order throughout: a folded sum is stored as it is.

/// The one's complement sum of `bytes`, not folded. The four lanes are for the compiler to turn into vectors.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut pairs = blocks.remainder().chunks_exact(2);
    for pair in &mut pairs {
        total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Folds a sum to 16 bits. Its complement is the checksum; over data with its checksum it is 0xffff.
#[inline]
pub(crate) const fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of a pseudo header (RFC 793 §3.1, RFC 8200 §8.1): `addresses` are source and destination as they lie in the
/// header, `len` counts the transport header and what follows.
#[inline]
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    // A 32-bit length and a 32-bit protocol, of which IPv4 has 16 bits: the sum is the same.
    sum(addresses) + u64::from((len as u32).to_be()) + u64::from(u16::from(protocol).to_be())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_rfc_1071(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(fold(sum(&bytes)).to_be() % 0xffff, plain(&bytes) % 0xffff);
        }
    }
}
