//! Which entries of a table may be storable.

use crate::dirty::bits;
use crate::sync::{AtomicU64, Ordering, fence_after_rmw};

/// Entries that a set has room for; a format's tables have no more.
pub(super) const ROOM: usize = WORDS * 64;

#[cfg(not(loom))]
const WORDS: usize = 512 / 64;
#[cfg(loom)]
const WORDS: usize = 1;

/// Entries in a cache line. They are added together: who opens one by one pays for the first of
/// a line only, and a settle that looks at one has them all at hand.
#[cfg(not(loom))]
const LINE: usize = 64 / size_of::<u64>();
#[cfg(loom)]
const LINE: usize = 1;

/// A bit an entry, one cache line in all. A storable entry is in it, or the vCPU that made it
/// storable is still inside its fault (W2); others may be in it too. Only a settle takes bits out.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct WritableSet {
    words: [AtomicU64; WORDS],
}

impl WritableSet {
    pub(crate) fn new() -> Self {
        Self { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Adds an entry that has just been made storable, and its cache line's others with it.
    #[inline]
    pub(crate) fn insert(&self, index: usize) {
        let (word, bit) = (&self.words[index / 64], 1 << (index % 64));
        let line = ((1 << LINE) - 1) << (index % 64 / LINE * LINE);
        // The compare-exchange that opened the entry came before this load; a settle takes the
        // word before it looks at the entry. One of the two sees the other. (An entry that was
        // published by a plain store has the table's lock for that, as the settle has.)
        fence_after_rmw();
        if word.load(Ordering::Relaxed) & bit == 0 {
            // Release: whoever takes the bit sees the entry open.
            word.fetch_or(line, Ordering::AcqRel);
        }
    }

    /// Takes all entries out, a word at a time, each before its entries are looked at.
    pub(crate) fn take(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(number, word)| {
            let taken = word.swap(0, Ordering::AcqRel);
            fence_after_rmw();
            bits(taken).map(move |bit| number * 64 + bit)
        })
    }

    /// The entries in it, which stay.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(number, word)| {
            bits(word.load(Ordering::Acquire)).map(move |bit| number * 64 + bit)
        })
    }
}
