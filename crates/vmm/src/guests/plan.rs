//! How [`super::Guest::Selfcheck`] divides its memory.

use crate::ram::RESERVED_PAGES;

/// How many hot pages are written for one cold page: it bounds how fast memory is dirtied, so that a
/// migration finds a guest it can catch up with.
pub const HOT_PER_COLD: u64 = 1024;
/// The most hot pages that a vCPU, and that all vCPUs together have.
pub(super) const HOT_LIMITS: (u64, u64) = (2048, 8192);
/// One page in so many is hot, if the limits allow (a power of two).
pub(super) const HOT_SHARE: u32 = 5;
/// The cold pages are checked in about so many stretches (a power of two).
pub(super) const STRETCHES: u32 = 5;

/// Pages of each vCPU. Page `i` above the reserved ones belongs to vCPU `i % vcpus`, so that vCPUs share
/// page tables and no two write one page; the last quarter of RAM stays zero.
///
/// A page carries a *count* in its first word, and in a second word, whose place moves with the count, a
/// hash of count and page. A vCPU never writes a page without having found in it, in both words, what it
/// wrote last. What it expects is in its registers only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Pages rewritten in every pass: in pass k they must hold k - 1.
    pub hot: u64,
    /// Pages swept slowly, one for every [`HOT_PER_COLD`] hot ones: those below the sweep's position hold
    /// its number, the others one less.
    pub cold: u64,
    /// Cold pages checked and not written in every pass, the next ones in the next.
    pub stretch: u64,
}

impl Plan {
    /// The plan for so many bytes of memory, at least [`crate::MINIMUM_MEMORY`], and 1 to 64 vCPUs.
    #[must_use]
    pub fn new(memory: u64, vcpus: u64) -> Self {
        let vcpus = vcpus.max(1);
        let pages = memory >> 12;
        let area = pages.saturating_sub(RESERVED_PAGES + pages / 4);
        let all_hot = (pages >> HOT_SHARE).min(HOT_LIMITS.1);
        let hot = (all_hot / vcpus).clamp(1, HOT_LIMITS.0);
        let cold = (area / vcpus).saturating_sub(hot);
        Self { hot, cold, stretch: (cold >> STRETCHES) + 1 }
    }
}

/// How many further passes of every vCPU prove that all of the guest's pages have been checked once
/// more: those that every stretch takes to come round, and the one under way.
#[must_use]
pub fn passes_to_recheck_all(memory: u64, vcpus: u64) -> u64 {
    let plan = Plan::new(memory, vcpus);
    plan.cold.div_ceil(plan.stretch) + 1
}
