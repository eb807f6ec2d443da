//! Contents that look like noise and can be made again from a number: xorshift64*, which no checksum is blind to.

/// An endless stream of bytes that depends on its seed alone.
#[derive(Debug)]
pub(crate) struct Pattern(u64);

impl Pattern {
    /// The stream of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        // A state of 0 would stay 0; the odd factor spreads neighbouring seeds.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Fills a buffer with what comes next. Bytes of a last, incomplete word are thrown away.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// So many bytes of a seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Pattern::new(seed).fill(&mut bytes);
    bytes
}

/// What a datagram should be and is not, `None` where it is: sizes, or the first byte that differs.
pub(crate) fn difference(want: &[u8], got: &[u8]) -> Option<String> {
    if want.len() != got.len() {
        return Some(format!("{} bytes came instead of {}", got.len(), want.len()));
    }
    let place = want.iter().zip(got).position(|(want, got)| want != got)?;
    Some(format!("of {} bytes, the one at {place} is {:#04x} instead of {:#04x}", want.len(), got[place], want[place]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(bytes(1, 1000), bytes(1, 1000));
        assert_eq!(bytes(1, 1000)[..13], bytes(1, 13));
        assert_ne!(bytes(1, 8), bytes(2, 8));
        assert_ne!(bytes(0, 8), bytes(1, 8));
    }

    #[test]
    fn a_difference_is_named() {
        assert_eq!(difference(&[1, 2], &[1, 2]), None);
        assert_eq!(difference(&[1, 2], &[1]).as_deref(), Some("1 bytes came instead of 2"));
        let changed = difference(&[1, 2], &[1, 3]);
        assert_eq!(changed.as_deref(), Some("of 2 bytes, the one at 1 is 0x03 instead of 0x02"));
    }
}
