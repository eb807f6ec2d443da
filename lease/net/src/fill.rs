//! The order in which entries are put into a persistent map.

/// The indexes of `len` sorted entries, every other one first.
///
/// A B-tree splits a node that is full. Entries that come in their order leave each node half full, since nothing is put into the first half
/// any more. If every other entry comes first, the rest fills these nodes: the map takes half the memory.
pub fn every_other_first(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(2).chain((1..len).step_by(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_comes_once() {
        for len in [0, 1, 2, 7, 8] {
            let mut indexes: Vec<usize> = every_other_first(len).collect();
            indexes.sort_unstable();
            assert_eq!(indexes, (0..len).collect::<Vec<_>>());
        }
        assert_eq!(every_other_first(5).collect::<Vec<_>>(), [0, 2, 4, 1, 3]);
    }
}
