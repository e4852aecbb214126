//! What the guest executes, and where.

#[cfg_attr(target_arch = "x86_64", path = "program/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "program/aarch64.rs")]
mod processor;

pub(super) use processor::{begin, is_round, write};

/// Where the guest's code is, physically and virtually: everything is mapped one to one.
const CODE: u64 = 0x8000;

const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

/// The walk of a vCPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Its state, which it stores.
    pub(crate) state: u64,
    /// The physical address of the first of its pages.
    pub(crate) base: u64,
    /// How many they are.
    pub(crate) pages: u64,
    /// Stores a round.
    pub(crate) stores: u64,
}

impl Walk {
    /// The next page that it stores to, counted from its first, and what it stores there.
    pub(crate) fn step(&mut self) -> (u64, u64) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        let page = (u128::from(self.state) * u128::from(self.pages)) >> 64;
        (u64::try_from(page).expect("below the number of pages"), self.state)
    }
}
