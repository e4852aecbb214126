//! Huge leaves: splitting them ahead of the first write, and getting them back. What the fault does
//! with them is in `fault.rs`.

mod recover;
mod split;

pub use split::{HugeLeaves, SplitError, SplitReport};

use vellum_pte::{Gfn, GfnRange};

/// How many leaves are split, and how many tables recovered, before others get a turn.
const AT_A_TIME: usize = 32;

/// The part of a slot from `from` on.
fn rest(range: GfnRange, from: Gfn) -> Option<GfnRange> {
    let first = range.first().max(from);
    GfnRange::new(first, range.end().checked_sub(first)?).filter(|rest| rest.pages() > 0)
}
