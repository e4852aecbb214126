//! A slot's dirty log, as sets of pages.

use std::ops::Range;
use vellum_memory::RegionSet;
use vellum_mmu::{ClearError, ClearRange, Initial};

/// A set of pages of a slot, a bit each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pages {
    words: Vec<u64>,
}

impl Pages {
    /// The empty set.
    #[must_use]
    pub fn none(pages: u64) -> Self {
        Self { words: vec![0; usize::try_from(pages.div_ceil(64)).expect("a slot")] }
    }

    /// What a harvest named.
    #[must_use]
    pub fn named(set: &RegionSet) -> Self {
        let words = set.region().range.pages().div_ceil(64);
        Self { words: (0..words).map(|word| set.word(word)).collect() }
    }

    /// Adds a page.
    pub fn insert(&mut self, page: u64) {
        self.words[index(page)] |= 1 << (page % 64);
    }

    fn remove(&mut self, page: u64) {
        self.words[index(page)] &= !(1 << (page % 64));
    }

    /// Whether a page is in it.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        self.words.get(index(page)).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// The pages, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let pages = 64 * self.words.len() as u64;
        (0..pages).filter(|page| self.words[index(*page)] != 0).filter(|page| self.contains(*page))
    }

    /// The first page that is in this set and in none of `others`.
    #[must_use]
    pub fn first_beside(&self, others: &[&Self]) -> Option<u64> {
        let beside = |(word, mask): (usize, &u64)| {
            let rest = others.iter().fold(*mask, |rest, other| rest & !other.words[word]);
            (rest != 0).then(|| word as u64 * 64 + u64::from(rest.trailing_zeros()))
        };
        self.words.iter().enumerate().find_map(beside)
    }

    /// Every page whose group of 64 has one in it.
    #[must_use]
    pub fn groups(&self) -> Self {
        let all = |word: &u64| if *word == 0 { 0 } else { u64::MAX };
        Self { words: self.words.iter().map(all).collect() }
    }
}

fn index(page: u64) -> usize {
    usize::try_from(page / 64).expect("a slot")
}

/// The log of one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    pages: u64,
    /// The dirty pages.
    pub dirty: Pages,
    /// Pages that may be named although they are clean: a write was reported in their group of 64,
    /// and where the guest has mapped nothing near, the library may keep such a mark for the whole
    /// group: marking never allocates.
    pub loose: Pages,
}

/// How the library learns of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// It sees it: a vCPU's fault, a `GuestWriter`, a page owed.
    Seen,
    /// It is told afterwards, by `mark_dirty`.
    Reported,
}

/// How well a clear can tell pages of one group apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clearing {
    /// Each.
    Exact,
    /// Where memory ran out, what was cleared may be named again.
    ByGroups,
}

impl Log {
    /// A log of a slot of so many pages.
    #[must_use]
    pub fn new(pages: u64, initial: Initial) -> Self {
        let mut dirty = Pages::none(pages);
        if initial == Initial::AllSet {
            (0..pages).for_each(|page| dirty.insert(page));
        }
        Self { pages, dirty, loose: Pages::none(pages) }
    }

    /// Marks a page.
    pub fn mark(&mut self, page: u64, by: Writer) {
        self.dirty.insert(page);
        if by == Writer::Reported {
            let group = page & !63;
            (group..self.pages.min(group + 64)).for_each(|page| self.loose.insert(page));
        }
    }

    /// Takes everything out.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.pages, Initial::Clean))
    }

    /// Takes one page out.
    pub fn forget(&mut self, page: u64) {
        self.dirty.remove(page);
        self.loose.remove(page);
    }

    /// What is wrong with a range to clear, if anything is; any of it may be said.
    #[must_use]
    pub fn misfits(&self, range: ClearRange, mask: &[u64]) -> Vec<ClearError> {
        let ClearRange { first, pages } = range;
        let end = first.saturating_add(pages);
        let needed = end.div_ceil(64).saturating_sub(first / 64);
        let given = mask.len() as u64;
        let misfits = [
            (first % 64 != 0, ClearError::FirstUnaligned(first)),
            (end > self.pages, ClearError::PastTheEnd { end, pages: self.pages }),
            (pages % 64 != 0 && end != self.pages, ClearError::CountUnaligned(pages)),
            (given < needed, ClearError::ShortMask { needed, given }),
        ];
        misfits.into_iter().filter(|(wrong, _)| *wrong).map(|(_, error)| error).collect()
    }

    /// Takes out exactly what is both dirty and in the mask. What that was, and what may be named
    /// with it.
    pub fn clear(&mut self, range: ClearRange, mask: &[u64], clearing: Clearing) -> Self {
        let Range { start, end } = range.first..range.first + range.pages;
        let masked = |page: &u64| mask[index(page - start)] >> (page % 64) & 1 != 0;
        let mut cleared = Self::new(self.pages, Initial::Clean);
        let groups = self.dirty.groups();
        for page in (start..end).filter(masked) {
            if self.dirty.contains(page) {
                cleared.dirty.insert(page);
            }
            let coarse = clearing == Clearing::ByGroups && groups.contains(page);
            if coarse || self.loose.contains(page) {
                cleared.loose.insert(page);
            }
            self.forget(page);
            if coarse {
                self.loose.insert(page);
            }
        }
        cleared
    }
}
