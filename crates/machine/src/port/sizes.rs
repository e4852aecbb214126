//! The sizes of leaves that a TLB holds translations of.
//!
//! The TLB keeps 4 KiB pieces, so it would never see that an address has two sizes. This table
//! remembers, for each 2 MiB and each 1 GiB that was walked in an epoch, whether it was mapped by one
//! leaf (or a part of one), or by smaller ones inside it. Nothing but the epoch makes it forget:
//! another piece of the same leaf may be in the TLB still.

use vellum_pte::Gfn;

/// log2 of the entries in a table.
const INDEX_BITS: u32 = 9;
/// Levels of huge leaves: 2 and 3.
const LEVELS: [u8; 2] = [2, 3];
/// Ranges remembered for each level.
const WAYS: usize = 64;

/// How a range of a level's size is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mapped {
    /// By one leaf, of this level or above it.
    Whole,
    /// By leaves inside it.
    InParts,
}

#[derive(Clone, Copy)]
struct Range {
    number: u64,
    /// No walk is of epoch 0.
    epoch: u64,
    mapped: Mapped,
}

/// Whether what was found agrees with what is cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Sizes {
    /// It does, or nothing is cached.
    Agree,
    /// An address has leaves of two sizes.
    Differ,
}

/// What was found in which epoch.
pub(super) struct LeafSizes {
    levels: Box<[[Range; WAYS]; LEVELS.len()]>,
}

impl LeafSizes {
    pub(super) fn new() -> Self {
        let nothing = Range { number: 0, epoch: 0, mapped: Mapped::Whole };
        Self { levels: Box::new([[nothing; WAYS]; LEVELS.len()]) }
    }

    /// Remembers that a page was found in a leaf at `leaf_level`, and says whether that agrees.
    pub(super) fn found(&mut self, gfn: Gfn, epoch: u64, leaf_level: u8) -> Sizes {
        let mut agree = Sizes::Agree;
        for (level, ranges) in LEVELS.into_iter().zip(self.levels.iter_mut()) {
            let number = gfn.get() >> (INDEX_BITS * u32::from(level - 1));
            let mapped = if leaf_level >= level { Mapped::Whole } else { Mapped::InParts };
            let held = &mut ranges[place(number)];
            let cached = held.number == number && held.epoch == epoch;
            if cached && held.mapped != mapped {
                agree = Sizes::Differ;
            }
            *held = Range { number, epoch, mapped };
        }
        agree
    }

    /// Forgets everything: the root changed.
    pub(super) fn clear(&mut self) {
        for range in self.levels.as_flattened_mut() {
            range.epoch = 0;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "hosts have 64-bit addresses")]
fn place(number: u64) -> usize {
    number as usize % WAYS
}
