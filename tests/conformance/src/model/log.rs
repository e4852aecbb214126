//! A slot's dirty log, as sets of pages.

use super::rings::Leaves;
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

    /// All of a slot's.
    #[must_use]
    pub fn all(pages: u64) -> Self {
        let mut all = Self::none(pages);
        (0..pages).for_each(|page| all.insert(page));
        all
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

    /// Takes a page out.
    pub(super) fn remove(&mut self, page: u64) {
        self.words[index(page)] &= !(1 << (page % 64));
    }

    /// Takes all out.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
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
    /// The dirty pages; in a VM with rings, those that are in the bitmap.
    pub dirty: Pages,
    /// Pages that may be named although they are clean: a write was reported in their group of 64,
    /// and where the guest has mapped nothing near, the library may keep such a mark for the whole
    /// group: marking never allocates. In a VM with rings also
    /// what may be in one of them instead.
    pub loose: Pages,
    /// Pages that a vCPU has written: in a ring, in the bitmap, or harvested and not taken back.
    pub ringed: Pages,
    pub(super) leaves: Leaves,
}

/// How the library learns of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// It sees it: a vCPU's fault, a `GuestWriter`, a page owed.
    Seen,
    /// It is told afterwards, by `mark_dirty`.
    Reported,
    /// It sees it, and it is a vCPU that has a ring: no affair of the bitmap.
    HasRing,
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
        let (dirty, leaves) = match initial {
            Initial::Clean => (Pages::none(pages), Leaves::closed(pages)),
            Initial::AllSet => (Pages::all(pages), Leaves::unknown(pages)),
        };
        Self { pages, dirty, loose: Pages::none(pages), ringed: Pages::none(pages), leaves }
    }

    /// Marks a page.
    pub fn mark(&mut self, page: u64, by: Writer) {
        match by {
            Writer::Seen => self.dirty.insert(page),
            Writer::Reported => {
                self.dirty.insert(page);
                self.may_be_reported(page);
            }
            Writer::HasRing => {}
        }
    }

    /// A write may have been reported.
    pub(super) fn may_be_reported(&mut self, page: u64) {
        let group = page & !63;
        (group..self.pages.min(group + 64)).for_each(|page| self.loose.insert(page));
    }

    /// Takes everything out of the bitmap.
    pub fn take(&mut self) -> Self {
        let taken = self.clone();
        self.dirty.clear();
        self.loose.clear();
        taken
    }

    /// Takes one page out of it.
    fn take_page(&mut self, page: u64) {
        self.dirty.remove(page);
        self.loose.remove(page);
    }

    /// Takes a page out of the bitmap that the guest does not need. An entry of a ring stays.
    pub fn forget(&mut self, page: u64) {
        if self.dirty.contains(page) {
            self.deliver(page);
        } else if self.loose.contains(page) {
            self.ringed.remove(page);
            self.leaves.may_be_closed();
        }
        self.take_page(page);
    }

    /// Pages were named and protected: whoever reads them now reads what was stored before.
    pub fn delivered(&mut self, named: &Pages) {
        named.iter().for_each(|page| self.deliver(page));
    }

    /// One was, if there is such a page.
    pub(super) fn deliver(&mut self, page: u64) {
        if page < self.pages {
            self.ringed.remove(page);
            self.leaves.close(page);
        }
    }

    /// Every store faults.
    pub(super) fn protect(&mut self) {
        self.leaves = Leaves::closed(self.pages);
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
            self.take_page(page);
            if coarse {
                self.loose.insert(page);
            }
        }
        cleared
    }
}
