//! `trace` agrees with the real kernel: on the route of a packet, and on whether and where a packet is dropped.
//!
//! What is tested here is our reader and our model of the kernel, so this is the one scenario that uses the agent's code: it reads two
//! kernels by it, and compares the result with `ip route get` and with packets that were sent.

mod command;
mod faults;
mod held;
mod named;
mod probe;
mod routes;

/// A random number generator (splitmix64) whose seed is printed, so that a failure can be had again.
pub(crate) struct Random(u64);

impl Random {
    /// The seed is `WIRE_TESTS_SEED`, or another one each time.
    pub(crate) fn from_environment() -> Self {
        let given = std::env::var("WIRE_TESTS_SEED").ok().and_then(|text| text.parse().ok());
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros();
        let seed = given.unwrap_or_else(|| u64::try_from(now()).unwrap_or_default());
        println!("WIRE_TESTS_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap_or_default()
    }

    pub(crate) fn one_of<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }
}
