//! Numbers that look random and are the same on each run.

/// xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
pub struct Draw(u64);

impl Draw {
    /// A sequence; another for another seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1 << 63)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// The next 32 bits.
    pub const fn bits(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
}
