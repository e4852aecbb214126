//! The dirty set of one memslot.
//!
//! Three levels: words (a bit a page), a summary (a bit a word) and a top (a bit a summary word).
//! The upper two are allocated when logging starts, one bit for 64 pages; words come in chunks
//! when a page is mapped. **Marking never fails and never allocates** (M1): where a chunk is
//! absent, the preallocated `whole` bit of a word says that all of its 64 pages are dirty.
//!
//! A mark goes up (word, summary, top) and a harvest comes down (top, summary, word), each with a
//! full barrier between the levels, so that a mark which finds its summary bit set has been, or
//! will be, found. `docs/ordering.md`, "dirty set".

use crate::allocate::{OutOfMemory, try_box, try_slice};
use crate::breaks::{Break, Breaks};
use crate::once_box::OnceBox;
use crate::sync::{AtomicU64, AtomicUsize, Ordering, fence_after_rmw};
use alloc::boxed::Box;
use core::ops::Range;

/// Words in a chunk: 512 words are one page of memory and cover 128 MiB of guest.
#[cfg(not(loom))]
const CHUNK_WORDS: usize = 512;
#[cfg(loom)]
const CHUNK_WORDS: usize = 2;

#[derive(Debug)]
struct Chunk {
    words: [AtomicU64; CHUNK_WORDS],
}

/// What a log holds when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initial {
    /// Nothing: what was written before is in no harvest.
    Clean,
    /// Every page (seed: `KVM_DIRTY_LOG_INITIALLY_SET`).
    AllSet,
}

/// Which pages of a slot are dirty.
#[derive(Debug)]
pub(crate) struct DirtySet {
    pages: u64,
    chunks: Box<[OnceBox<Chunk>]>,
    whole: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
    top: Box<[AtomicU64]>,
    /// How many are going by the summary.
    scans: AtomicUsize,
    /// How many are taking a bit out of it.
    lowering: AtomicUsize,
    breaks: Breaks,
}

impl DirtySet {
    pub(crate) fn new(pages: u64, initial: Initial, breaks: Breaks) -> Result<Self, OutOfMemory> {
        let words = usize::try_from(pages.div_ceil(64)).map_err(|_| OutOfMemory)?;
        let level = |bits| level(bits, initial);
        Ok(Self {
            pages,
            chunks: try_slice(words.div_ceil(CHUNK_WORDS), OnceBox::new)?,
            whole: level(words)?,
            summary: level(words)?,
            top: level(words.div_ceil(64))?,
            scans: AtomicUsize::new(0),
            lowering: AtomicUsize::new(0),
            breaks,
        })
    }

    /// Allocates the words around `page`, if they are not there. Without memory for them the log
    /// is coarser there, never wrong, so nobody needs to know.
    #[inline]
    pub(crate) fn prepare(&self, page: u64) {
        let Some(slot) = self.chunks.get(index(page / 64) / CHUNK_WORDS) else { return };
        if slot.get().is_none() {
            Self::make_chunk(slot);
        }
    }

    #[cold]
    fn make_chunk(slot: &OnceBox<Chunk>) {
        let chunk = Chunk { words: core::array::from_fn(|_| AtomicU64::new(0)) };
        // A lost race leaves the faster one's chunk, which is as good.
        let _ = try_box(chunk).map(|chunk| slot.set(chunk).is_ok());
    }

    /// Marks one page. Pages past the end are none.
    #[inline]
    pub(crate) fn mark(&self, page: u64) {
        if page < self.pages {
            self.mark_word(index(page / 64), 1 << (page % 64));
        }
    }

    /// Marks the pages of `mask` in `word`, which is in range.
    #[inline]
    pub(crate) fn mark_word(&self, word: usize, mask: u64) {
        let before = match self.word(word) {
            // Release: the entry that was opened and the set it was added to are seen by the
            // harvest that takes this bit.
            Some(cell) => cell.fetch_or(mask, Ordering::AcqRel),
            None => self.whole[word / 64].fetch_or(bit(word), Ordering::AcqRel),
        };
        if self.breaks.has(Break::TrustWord) && before != 0 {
            return;
        }
        self.raise(word);
    }

    /// Makes a marked word findable.
    #[inline]
    fn raise(&self, word: usize) {
        fence_after_rmw();
        set_if_clear(&self.summary[word / 64], bit(word));
        set_if_clear(&self.top[word / 64 / 64], bit(word / 64));
    }

    /// Takes all marks out. `taken` gets a word's index and mask, in no particular order of time.
    pub(crate) fn take(&self, mut taken: impl FnMut(usize, u64)) {
        let scan = self.scan();
        if scan.finds == Finds::EveryWord {
            return self.marked_words().for_each(|word| self.take_one(word, &mut taken));
        }
        for (high, top) in self.top.iter().enumerate() {
            for middle in take_bits(top) {
                self.take_summary(high * 64 + middle, &mut taken);
            }
        }
    }

    fn take_summary(&self, middle: usize, taken: &mut impl FnMut(usize, u64)) {
        for low in take_bits(&self.summary[middle]) {
            self.take_one(middle * 64 + low, taken);
        }
    }

    fn take_one(&self, word: usize, taken: &mut impl FnMut(usize, u64)) {
        let mask = self.take_word(word) & self.valid(word);
        if mask != 0 {
            taken(word, mask);
        }
    }

    /// Takes the marks of `mask` out of one word, and says which there were. Without memory for the
    /// word's own bits, they stay: the log is coarser there, and names them again.
    pub(crate) fn take_some(&self, word: u64, mask: u64) -> u64 {
        let word = index(word);
        if word >= self.words() {
            return 0;
        }
        let mask = mask & self.valid(word);
        if mask == self.valid(word) {
            let taken = self.take_word(word) & mask;
            self.lower(word);
            return taken;
        }
        if self.is_whole(word) && !self.spell_out(word) {
            return mask;
        }
        let before = self.word(word).map_or(0, |cell| cell.fetch_and(!mask, Ordering::AcqRel));
        if before & !mask == 0 {
            self.lower(word);
        }
        before & mask
    }

    /// Makes a word that was emptied cost nothing to the next who looks, unless somebody is looking:
    /// while a word's summary bit is out, a mark that was made before is not found by it. **One of
    /// the two sees the other**: who finds somebody lowering looks at every word.
    fn lower(&self, word: usize) {
        self.lowering.fetch_add(1, Ordering::AcqRel);
        fence_after_rmw();
        // Acquire: pairs with the release at a scan's end; it looked before.
        let scans = self.scans.load(Ordering::Acquire);
        if scans == 0 || self.breaks.has(Break::LowerUnderScan) {
            self.lower_alone(word);
        }
        // Release: whoever finds nobody lowering finds the bit set again.
        self.lowering.fetch_sub(1, Ordering::Release);
    }

    /// The bit is taken out first, and the word looked at again after a full barrier: a mark that
    /// came meanwhile either sees its bit gone and sets it, or is seen here.
    ///
    /// The top stays as it is. A mark that finds its summary bit set by another trusts the top bit
    /// above, and the other may not have looked at that since it was taken out.
    fn lower_alone(&self, word: usize) {
        self.summary[word / 64].fetch_and(!bit(word), Ordering::AcqRel);
        fence_after_rmw();
        if self.read_word(word) != 0 && !self.breaks.has(Break::LowerBlindly) {
            return self.raise(word);
        }
        if self.breaks.has(Break::LowerTop) {
            self.lower_top(word);
        }
    }

    /// The deliberate bug [`Break::LowerTop`].
    #[cold]
    fn lower_top(&self, word: usize) {
        let (summary, top) = (&self.summary[word / 64], &self.top[word / 64 / 64]);
        if summary.load(Ordering::Acquire) == 0 {
            top.fetch_and(!bit(word / 64), Ordering::AcqRel);
            fence_after_rmw();
            if summary.load(Ordering::Acquire) != 0 {
                set_if_clear(top, bit(word / 64));
            }
        }
    }

    fn scan(&self) -> Scan<'_> {
        self.scans.fetch_add(1, Ordering::AcqRel);
        fence_after_rmw();
        // Acquire: pairs with the release in `lower`.
        let lowering = self.lowering.load(Ordering::Acquire);
        let finds = if lowering == 0 { Finds::BySummary } else { Finds::EveryWord };
        Scan { set: self, finds }
    }

    /// The words that have a mark, whatever the summary says.
    fn marked_words(&self) -> impl Iterator<Item = usize> {
        (0..self.words()).filter(|word| self.read_word(*word) != 0)
    }

    /// Tells the marks, and leaves them.
    pub(crate) fn read(&self, mut seen: impl FnMut(usize, u64)) {
        let scan = self.scan();
        if scan.finds == Finds::EveryWord {
            return self.marked_words().for_each(|word| self.read_one(word, &mut seen));
        }
        for (high, top) in self.top.iter().enumerate() {
            for middle in bits(top.load(Ordering::Acquire)).map(|bit| high * 64 + bit) {
                let summary = self.summary[middle].load(Ordering::Acquire);
                bits(summary).for_each(|bit| self.read_one(middle * 64 + bit, &mut seen));
            }
        }
    }

    fn read_one(&self, word: usize, seen: &mut impl FnMut(usize, u64)) {
        let mask = self.read_word(word) & self.valid(word);
        if mask != 0 {
            seen(word, mask);
        }
    }

    fn read_word(&self, word: usize) -> u64 {
        // Acquire: pairs with the mark's release.
        let mask = self.word(word).map_or(0, |cell| cell.load(Ordering::Acquire));
        if self.is_whole(word) { u64::MAX } else { mask }
    }

    fn is_whole(&self, word: usize) -> bool {
        self.whole[word / 64].load(Ordering::Acquire) & bit(word) != 0
    }

    /// Turns a word's `whole` bit into 64 bits of its own, if there is memory for them: they are set
    /// before it is cleared.
    fn spell_out(&self, word: usize) -> bool {
        self.prepare(word as u64 * 64);
        let Some(cell) = self.word(word) else { return false };
        cell.fetch_or(u64::MAX, Ordering::AcqRel);
        self.whole[word / 64].fetch_and(!bit(word), Ordering::AcqRel);
        true
    }

    fn words(&self) -> usize {
        index(self.pages.div_ceil(64))
    }

    fn take_word(&self, word: usize) -> u64 {
        let whole = &self.whole[word / 64];
        let all = whole.load(Ordering::Acquire) & bit(word) != 0
            && whole.fetch_and(!bit(word), Ordering::AcqRel) & bit(word) != 0;
        // Acquire: pairs with the mark's release.
        let mask = self.word(word).map_or(0, |cell| cell.swap(0, Ordering::AcqRel));
        if all { u64::MAX } else { mask }
    }

    #[inline]
    fn word(&self, word: usize) -> Option<&AtomicU64> {
        let chunk = self.chunks[word / CHUNK_WORDS].get()?;
        Some(&chunk.words[word % CHUNK_WORDS])
    }

    /// The bits of `word` that stand for pages.
    fn valid(&self, word: usize) -> u64 {
        match self.pages - word as u64 * 64 {
            pages if pages >= 64 => u64::MAX,
            pages => (1 << pages) - 1,
        }
    }

    /// Which bits of any word are pages.
    pub(crate) fn valid_in(&self, word: u64) -> u64 {
        if word < self.pages.div_ceil(64) { self.valid(index(word)) } else { 0 }
    }

    /// How many pages it is about.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }
}

/// How a scan finds the words that have marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finds {
    /// From the top down.
    BySummary,
    /// By looking at each: somebody is lowering one.
    EveryWord,
}

/// Somebody who looks for marks.
struct Scan<'a> {
    set: &'a DirtySet,
    finds: Finds,
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        // Release: what was looked at lies before.
        self.set.scans.fetch_sub(1, Ordering::Release);
    }
}

/// So many bits in words, all as `initial` says.
fn level(bits: usize, initial: Initial) -> Result<Box<[AtomicU64]>, OutOfMemory> {
    let mut left = bits as u64;
    try_slice(bits.div_ceil(64), || {
        let here = left.min(64);
        left -= here;
        AtomicU64::new(if initial == Initial::AllSet { below(here) } else { 0 })
    })
}

/// Sets `bit`, unless it is set: its cache line then stays shared.
#[inline]
fn set_if_clear(cell: &AtomicU64, bit: u64) {
    // Acquire: whoever set it did so after a harvest took it last, and then the next level is
    // read as that harvest left it, or newer.
    if cell.load(Ordering::Acquire) & bit == 0 {
        cell.fetch_or(bit, Ordering::AcqRel);
        fence_after_rmw();
    }
}

/// Takes all bits out of `cell`; the words they stand for are read after a full barrier.
fn take_bits(cell: &AtomicU64) -> impl Iterator<Item = usize> + use<> {
    let taken = match cell.load(Ordering::Relaxed) {
        0 => 0,
        _ => cell.swap(0, Ordering::AcqRel),
    };
    fence_after_rmw();
    bits(taken)
}

/// The words of a bitmap that some pages are in, and which bits of each.
pub(crate) fn words_of(pages: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    (pages.start / 64..pages.end.div_ceil(64)).map(move |word| {
        let first = pages.start.saturating_sub(word * 64);
        (word, below(pages.end - word * 64) & !below(first))
    })
}

/// A mask of the bits below `count`.
pub(crate) const fn below(count: u64) -> u64 {
    if count < 64 { (1 << count) - 1 } else { u64::MAX }
}

/// The set bits of `mask`, lowest first.
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> + use<> {
    core::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(bit)
    })
}

const fn bit(index: usize) -> u64 {
    1 << (index % 64)
}

/// A word number as an index. Slots are small enough: `new` has checked.
#[allow(clippy::cast_possible_truncation)]
const fn index(number: u64) -> usize {
    number as usize
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom, feature = "breaks"))]
mod loom_tests;
