//! Sets of pages, a bitmap a region, sized once so that a round allocates nothing.

use crate::layout::{Layout, Region};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// A set of pages of a guest: one [`RegionSet`] for each region of its [`Layout`], in that order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageSet {
    regions: Vec<RegionSet>,
}

/// A set of pages of one region, named by their offset in it.
///
/// Two levels: a bit a page, and above it a bit a word, so that visiting a sparse set costs what it
/// holds and not what it could hold, and so does emptying it.
#[derive(Clone)]
pub struct RegionSet {
    region: Region,
    words: Vec<u64>,
    /// Which words count. Another has no pages, whatever it holds: what was in it before.
    summary: Vec<u64>,
}

impl PageSet {
    /// The empty set over `layout`.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self { regions: layout.regions().iter().copied().map(RegionSet::new).collect() }
    }

    /// The empty set over `layout`, for who can go on without it.
    ///
    /// # Errors
    /// No memory for the bitmaps.
    pub fn try_new(layout: &Layout) -> Result<Self, TryReserveError> {
        let sets = layout.regions().iter().copied().map(RegionSet::try_new);
        Ok(Self { regions: sets.collect::<Result<_, _>>()? })
    }

    /// The set of all pages of `layout`.
    #[must_use]
    pub fn full(layout: &Layout) -> Self {
        let mut set = Self::new(layout);
        for region in &mut set.regions {
            region.fill();
        }
        set
    }

    /// The regions in the layout's order.
    #[must_use]
    pub fn regions(&self) -> &[RegionSet] {
        &self.regions
    }

    /// The regions in the layout's order, to be changed.
    pub fn regions_mut(&mut self) -> &mut [RegionSet] {
        &mut self.regions
    }

    /// Whether it is over `layout`: the same regions in the same order.
    #[must_use]
    pub fn is_over(&self, layout: &Layout) -> bool {
        let regions = self.regions.iter().map(|set| &set.region);
        regions.eq(layout.regions())
    }

    /// How many pages are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.regions.iter().map(RegionSet::count).sum()
    }

    /// Whether no page is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.regions.iter().all(RegionSet::is_empty)
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        self.regions.iter_mut().for_each(RegionSet::clear);
    }

    /// Adds all pages of `other`, which is over the same layout.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.regions.iter_mut().zip(&other.regions) {
            mine.merge(theirs);
        }
    }
}

impl RegionSet {
    fn new(region: Region) -> Self {
        let words = index(region.range.pages().div_ceil(64));
        Self { region, words: alloc::vec![0; words], summary: alloc::vec![0; words.div_ceil(64)] }
    }

    /// The empty set over one region, for who harvests without an infallible allocator.
    ///
    /// # Errors
    /// No memory for the bitmap.
    pub fn try_new(region: Region) -> Result<Self, TryReserveError> {
        let words = index(region.range.pages().div_ceil(64));
        let (words, summary) = (zeros(words)?, zeros(words.div_ceil(64))?);
        Ok(Self { region, words, summary })
    }

    /// The region it is about.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// Adds the pages `64 * word + i` for each bit `i` of `mask`. What lies past the region's end
    /// is ignored.
    pub fn insert_word(&mut self, word: u64, mask: u64) {
        let word = index(word);
        let mask = mask & self.valid(word);
        if mask != 0 {
            let before = self.held(word);
            self.words[word] = before | mask;
            self.summary[word / 64] |= 1 << (word % 64);
        }
    }

    /// Adds the page `64 * i + j` for each bit j of word i of `bitmap`. What lies past the region's
    /// end is ignored. Where `bitmap` is empty it costs next to nothing.
    pub fn insert_bitmap(&mut self, bitmap: &[u64]) {
        let whole = index(self.region.range.pages() / 64).min(bitmap.len());
        let (whole, rest) = bitmap.split_at(whole);
        let mine = self.words.chunks_mut(64).zip(&mut self.summary);
        for (theirs, (mine, summary)) in whole.chunks(64).zip(mine) {
            if theirs.iter().fold(0, |any, word| any | word) != 0 {
                insert_all(mine, summary, theirs);
            }
        }
        if let Some(&last) = rest.first() {
            self.insert_word(whole.len() as u64, last);
        }
    }

    /// Replaces its pages by those of a bitmap, which `write` makes in place: page `64 * i + j` is bit
    /// j of word i. It has to write every word: they are not zeroed for it. What lies past the region's
    /// end is ignored.
    ///
    /// # Errors
    /// What `write` says. Then no page is in the set.
    pub fn overwrite<E>(
        &mut self,
        write: impl FnOnce(&mut [u64]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.clear();
        write(&mut self.words)?;
        let valid = self.valid(self.words.len().saturating_sub(1));
        if let Some(last) = self.words.last_mut() {
            *last &= valid;
        }
        for (words, summary) in self.words.chunks(64).zip(&mut self.summary) {
            *summary = if is_zero(words) { 0 } else { all(words.len()) };
        }
        Ok(())
    }

    /// What `words` hold as a bitmap, of which words without pages are zeroed only now, without the words before the first and after the last that have
    /// a page, and the number of its first word: page `64 * (first + i) + j` is bit j of word i.
    pub fn bitmap(&mut self, words: Range<u64>) -> (u64, &[u64]) {
        let words = index(words.start)..index(words.end).min(self.words.len());
        let Some((first, end)) = self.ends(words) else { return (0, &[]) };
        for high in first / 64..end.div_ceil(64) {
            let uncounted = bits(!self.summary[high]).map(|low| high * 64 + index(low));
            for word in uncounted.filter(|word| (first..end).contains(word)) {
                self.words[word] = 0;
            }
        }
        (first as u64, &self.words[first..end])
    }

    /// The first of `words` that has a page, and the one after the last.
    fn ends(&self, words: Range<usize>) -> Option<(usize, usize)> {
        let near = words.start / 64..words.end.div_ceil(64);
        let near = near.filter(|&high| self.summary[high] != 0);
        let near = near.flat_map(|high| high * 64..(high + 1) * 64);
        let mut filled = near.filter(|word| words.contains(word) && self.held(*word) != 0);
        let first = filled.next()?;
        Some((first, filled.next_back().map_or(first, |last| last) + 1))
    }

    /// The word's pages, which is one of the region's.
    fn held(&self, word: usize) -> u64 {
        if self.summary[word / 64] >> (word % 64) & 1 == 0 { 0 } else { self.words[word] }
    }

    /// Adds one page. One past the region's end is ignored.
    pub fn insert(&mut self, page: u64) {
        self.insert_word(page / 64, 1 << (page % 64));
    }

    /// Adds the pages of `pages`. Those past the region's end are ignored.
    pub fn insert_range(&mut self, pages: Range<u64>) {
        let end = pages.end.min(self.region.range.pages());
        for (word, mask) in words_of(pages.start, end.saturating_sub(pages.start)) {
            self.insert_word(word, mask);
        }
    }

    /// Adds all pages of the region.
    pub fn fill(&mut self) {
        self.insert_range(0..self.region.range.pages());
    }

    /// Takes one page out.
    pub fn remove(&mut self, page: u64) {
        if let Some(word) = self.words.get_mut(index(page / 64)) {
            *word &= !(1 << (page % 64));
        }
    }

    /// Whether `page` is in it.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        self.word(page / 64) >> (page % 64) & 1 != 0
    }

    /// The pages `64 * word + i` that are in it, as bits `i`.
    #[must_use]
    pub fn word(&self, word: u64) -> u64 {
        let word = index(word);
        if word < self.words.len() { self.held(word) } else { 0 }
    }

    /// How many pages are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words
            .chunks(64)
            .zip(&self.summary)
            .map(|(words, &counting)| count(words, counting))
            .sum()
    }

    /// Whether no page is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words().next().is_none()
    }

    /// The words that hold pages: their index and content, in order.
    pub fn words(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.summary.iter().enumerate().flat_map(move |(high, &summary)| {
            bits(summary).filter_map(move |low| {
                let word = high as u64 * 64 + low;
                let mask = self.words[index(word)];
                (mask != 0).then_some((word, mask))
            })
        })
    }

    /// The pages in order.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.words().flat_map(|(word, mask)| bits(mask).map(move |bit| word * 64 + bit))
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        self.summary.fill(0);
    }

    fn merge(&mut self, other: &Self) {
        for (word, mask) in other.words() {
            self.insert_word(word, mask);
        }
    }

    /// The bits of `word` that stand for pages of the region.
    fn valid(&self, word: usize) -> u64 {
        match self.region.range.pages().saturating_sub((word as u64).saturating_mul(64)) {
            0 => 0,
            pages if pages >= 64 => u64::MAX,
            pages => (1 << pages) - 1,
        }
    }
}

/// The same pages of the same region, however they came there.
impl PartialEq for RegionSet {
    fn eq(&self, other: &Self) -> bool {
        self.region == other.region && self.words().eq(other.words())
    }
}

impl Eq for RegionSet {}

impl fmt::Debug for RegionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.words().collect();
        f.debug_struct("RegionSet").field("region", &self.region).field("words", &words).finish()
    }
}

/// Adds each word of `theirs` to its word of `mine`, of which `counting` count. Then they all do.
fn insert_all(mine: &mut [u64], counting: &mut u64, theirs: &[u64]) {
    for (at, (mine, theirs)) in mine.iter_mut().zip(theirs).enumerate() {
        let before = if *counting >> at & 1 == 0 { 0 } else { *mine };
        *mine = before | theirs;
    }
    *counting |= all(theirs.len());
}

fn is_zero(words: &[u64]) -> bool {
    words.iter().fold(0, |any, word| any | word) == 0
}

/// A bit for each of at most 64 words.
fn all(words: usize) -> u64 {
    match words {
        fewer @ 0..64 => (1 << fewer) - 1,
        _ => u64::MAX,
    }
}

/// How many pages are in those of at most 64 `words` that count.
fn count(words: &[u64], counting: u64) -> u64 {
    let pages = |word: &u64| u64::from(word.count_ones());
    if counting == all(words.len()) {
        return words.iter().map(pages).sum();
    }
    bits(counting).map(|word| pages(&words[index(word)])).sum()
}

fn zeros(length: usize) -> Result<Vec<u64>, TryReserveError> {
    let mut words = Vec::new();
    words.try_reserve_exact(length)?;
    words.resize(length, 0);
    Ok(words)
}

/// The words that the pages `first..first + pages` touch, each with the bits of those pages. The sum
/// is a number.
pub(crate) fn words_of(first: u64, pages: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = first + pages;
    let past = if pages == 0 { first / 64 } else { end.div_ceil(64) };
    (first / 64..past).map(move |word| {
        let from = first.saturating_sub(word * 64);
        let to = (end - word * 64).min(64);
        (word, u64::MAX >> (64 - (to - from)) << from)
    })
}

/// The set bits of `mask`, lowest first.
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = u64> {
    core::iter::from_fn(move || {
        let bit = (mask != 0).then(|| u64::from(mask.trailing_zeros()))?;
        mask &= mask - 1;
        Some(bit)
    })
}

/// A page or word number as an index: a region's bitmap fits in memory, so it fits in `usize`.
pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
