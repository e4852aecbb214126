//! The marks of one region, set by many and taken by one.
//!
//! Two levels: words (a bit a page) and a summary (a bit a word). A mark goes up and a take comes
//! down, each with a full barrier between the levels. `docs/ordering.md`, "marks of devices", says
//! what follows from that.

use crate::page_set::{bits, index, words_of};
use crate::sync::{AtomicU64, Ordering, fence, fence_after_rmw};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;

#[derive(Debug)]
pub(super) struct Marks {
    words: Vec<AtomicU64>,
    summary: Vec<AtomicU64>,
    #[cfg(all(test, loom))]
    pub(super) planted: Option<Bug>,
}

/// Deliberate mistakes, which loom must object to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bug {
    /// A mark returns when it finds its bit set, without looking whether the word can be found.
    TrustWord,
    /// A mark looks whether its word can be found without a barrier after setting its bit.
    RaiseEarly,
    /// A mark looks for its bit without a barrier after the write that it is about.
    LookEarly,
    /// Pages are read without a barrier after their marks were taken.
    ReadEarly,
}

impl Marks {
    pub(super) fn try_new(pages: u64) -> Result<Self, TryReserveError> {
        let words = index(pages.div_ceil(64));
        Ok(Self {
            words: clear_cells(words)?,
            summary: clear_cells(words.div_ceil(64))?,
            #[cfg(all(test, loom))]
            planted: None,
        })
    }

    /// Marks `pages` pages from `first` on. Those past the end are none.
    ///
    /// The caller has a full barrier between the writes that this is about and this call.
    #[inline]
    pub(super) fn mark(&self, first: u64, pages: u64) {
        for (word, mask) in words_of(first, pages) {
            self.mark_word(word, mask);
        }
    }

    /// Marks the pages of `mask` in the `word`-th group of 64, on the same condition.
    #[inline]
    pub(super) fn mark_word(&self, word: u64, mask: u64) {
        let word = index(word);
        let Some(cell) = self.words.get(word) else { return };
        let before = set(cell, mask);
        if before == Before::Set && self.has(Bug::TrustWord) {
            return;
        }
        match before {
            _ if self.has(Bug::RaiseEarly) => (),
            Before::Set => fence(Ordering::SeqCst),
            Before::Clear => fence_after_rmw(),
        }
        set(&self.summary[word / 64], 1 << (word % 64));
    }

    /// Takes all marks out; `taken` gets a word's number and its bits. The caller has a full
    /// barrier between this call and reading the pages.
    pub(super) fn take(&self, mut taken: impl FnMut(u64, u64)) {
        for (high, summary) in self.summary.iter().enumerate() {
            let found = take_cell(summary);
            if found != 0 {
                // Pairs with the one in `mark_word`.
                fence_after_rmw();
            }
            for low in bits(found) {
                let word = high * 64 + index(low);
                // Acquire: pairs with the release in `set`.
                let mask = self.words[word].swap(0, Ordering::Acquire);
                if mask != 0 {
                    taken(word as u64, mask);
                }
            }
        }
    }

    /// Whether a page is marked.
    pub(super) fn contains(&self, page: u64) -> bool {
        let word = self.words.get(index(page / 64));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 != 0)
    }

    /// Whether a test has planted `bug`.
    #[inline]
    #[cfg_attr(not(all(test, loom)), allow(clippy::unused_self))]
    pub(super) fn has(&self, bug: Bug) -> bool {
        #[cfg(all(test, loom))]
        return self.planted == Some(bug);
        #[cfg(not(all(test, loom)))]
        {
            let _ = bug;
            false
        }
    }
}

/// What a mark found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// All of its bits.
    Set,
    /// Not all of them.
    Clear,
}

/// Sets the bits of `mask`, unless they are set: a page that is written all the time, a ring's, then
/// costs its writers no cache line.
#[inline]
fn set(cell: &AtomicU64, mask: u64) -> Before {
    if cell.load(Ordering::Relaxed) & mask == mask {
        return Before::Set;
    }
    // Release: who takes the bit sees the write that it stands for.
    cell.fetch_or(mask, Ordering::Release);
    Before::Clear
}

/// Takes the bits out. A cell that looks empty is left alone: its cache line stays shared.
fn take_cell(cell: &AtomicU64) -> u64 {
    match cell.load(Ordering::Relaxed) {
        0 => 0,
        // Acquire: pairs with the release in `set`.
        _ => cell.swap(0, Ordering::Acquire),
    }
}

fn clear_cells(length: usize) -> Result<Vec<AtomicU64>, TryReserveError> {
    let mut cells = Vec::new();
    cells.try_reserve_exact(length)?;
    cells.resize_with(length, || AtomicU64::new(0));
    Ok(cells)
}
