//! Which entries of a table may be storable.

use crate::dirty::bits;
use crate::sync::{AtomicU64, Ordering, fence_after_rmw};

#[cfg(not(loom))]
const WORDS: usize = 512 / 64;
#[cfg(loom)]
const WORDS: usize = 1;

/// A bit an entry, one cache line in all. A storable entry is in it, or the vCPU that made it
/// storable is still inside its fault (W2). Only a settle takes bits out.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct WritableSet {
    words: [AtomicU64; WORDS],
}

impl WritableSet {
    pub(crate) fn new() -> Self {
        Self { words: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Adds an entry that has just been made storable.
    #[inline]
    pub(crate) fn insert(&self, index: usize) {
        let (word, bit) = (&self.words[index / 64], 1 << (index % 64));
        // The compare-exchange that opened the entry came before this load; a settle takes the
        // word before it looks at the entry. One of the two sees the other. (An entry that was
        // published by a plain store has the table's lock for that, as the settle has.)
        fence_after_rmw();
        if word.load(Ordering::Relaxed) & bit == 0 {
            // Release: whoever takes the bit sees the entry open.
            word.fetch_or(bit, Ordering::AcqRel);
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
