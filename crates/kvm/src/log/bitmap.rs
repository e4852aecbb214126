//! A memslot's bitmap: read, and given back range by range.
#![allow(unsafe_code)]

use crate::calls::{Logging, Vm, again};
use crate::error::{Call, KvmError};
use crate::slot::Memslot;
use core::ops::Range;
use std::io;
use vellum_memory::{GfnRange, RegionSet};

/// A memslot that is as it says, with room for its bitmap.
pub(super) struct LoggedSlot {
    slot: Memslot,
    /// What the last get said. In a manual way: less what has been cleared since.
    bitmap: Vec<u64>,
}

impl LoggedSlot {
    /// # Safety
    /// S: the VM that it will be used with has this very memslot as long as it is used.
    pub(super) unsafe fn new(slot: Memslot) -> Self {
        let words = index(slot.region().range.pages().div_ceil(64));
        Self { slot, bitmap: vec![0; words] }
    }

    pub(super) fn pages(&self) -> u64 {
        self.slot.region().range.pages()
    }

    pub(super) fn switch(&mut self, vm: &Vm, logging: Logging) -> Result<(), KvmError> {
        self.bitmap.fill(0);
        let region = self.slot.with(logging);
        // SAFETY: S, as `new` was promised: only the flag is other.
        again(|| unsafe { vm.set_memory(&region) })
            .map_err(|source| self.failed(Call::SetUserMemoryRegion, source))
    }

    /// Adds to `pages` what the kernel says.
    pub(super) fn get(&mut self, vm: &Vm, pages: &mut RegionSet) -> Result<(), KvmError> {
        let number = self.slot.number();
        // SAFETY: S, as `new` was promised: the slot has as many pages as the bitmap has bits.
        let got = again(|| unsafe { vm.get_dirty_log(number, &mut self.bitmap) });
        got.map_err(|source| self.failed(Call::GetDirtyLog, source))?;
        pages.insert_bitmap(&self.bitmap);
        Ok(())
    }

    /// Clears and protects the pages of `range` that the last get named. Those that became dirty since
    /// keep their bits, for a later round. So do the others of a word: a consumer that has copied them
    /// would not look there again.
    pub(super) fn clear(&mut self, vm: &Vm, range: GfnRange) -> Result<(), KvmError> {
        let whole = self.slot.region().range;
        let Some(here) = whole.intersection(range) else { return Ok(()) };
        let first = here.first().get() - whole.first().get();
        let pages = first..first + here.pages();
        let words = index(pages.start / 64)..index(pages.end.div_ceil(64));
        let (low, high) = (words.start, words.end - 1);
        let kept = [low, high].map(|word| (word, self.bitmap[word] & !mask(&pages, word)));
        kept.iter().for_each(|&(word, bits)| self.bitmap[word] &= !bits);
        let cleared = self.clear_words(vm, words);
        kept.iter().for_each(|&(word, bits)| self.bitmap[word] |= bits);
        cleared
    }

    /// Clears what is set in `words`, in one call: each costs a shoot-down.
    fn clear_words(&mut self, vm: &Vm, words: Range<usize>) -> Result<(), KvmError> {
        let set = |&word: &usize| self.bitmap[word] != 0;
        let Some(first) = words.clone().find(set) else { return Ok(()) };
        let end = words.rev().find(set).map_or(first, |last| last) + 1;
        let page = first as u64 * 64;
        let pages = (end as u64 * 64).min(self.pages()) - page;
        // A memslot has fewer pages than this type has numbers.
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let number = self.slot.number();
        again(|| vm.clear_dirty_log(number, page, pages, &mut self.bitmap[first..end]))
            .map_err(|source| self.failed(Call::ClearDirtyLog, source))?;
        self.bitmap[first..end].fill(0);
        Ok(())
    }

    fn failed(&self, call: Call, source: io::Error) -> KvmError {
        KvmError::Slot { call, slot: self.slot.region().slot, source }
    }
}

/// Which of the 64 pages of `word` are in `pages`.
fn mask(pages: &Range<u64>, word: usize) -> u64 {
    let below = |end: u64| match end.saturating_sub(word as u64 * 64) {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    };
    below(pages.end) & !below(pages.start)
}

/// A number of words as an index: a bitmap fits in memory.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
