//! Reproducible random numbers.

/// Steele, Lea and Flood's `SplitMix64`: one word of state, random enough for tests.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Different streams of one seed are independent.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        // A fixed-point fraction below 1, times the bound.
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}
