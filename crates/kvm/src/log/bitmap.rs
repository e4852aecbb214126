//! A memslot's bitmap: read, and given back range by range.
#![allow(unsafe_code)]

use crate::calls::{Logging, Vm, again};
use crate::error::{Call, KvmError};
use crate::slot::Memslot;
use core::ops::Range;
use std::io;
use vellum_memory::{GfnRange, RegionSet};

/// A memslot that is as it says.
pub(super) struct LoggedSlot {
    slot: Memslot,
    /// Room for a bitmap, for where a consumer's set cannot be it. In most rounds nobody touches it.
    spare: Vec<u64>,
}

impl LoggedSlot {
    /// # Safety
    /// S: the VM that it will be used with has this very memslot as long as it is used.
    pub(super) unsafe fn new(slot: Memslot) -> Self {
        Self { slot, spare: vec![0; length(&slot)] }
    }

    pub(super) fn switch(&self, vm: &Vm, logging: Logging) -> Result<(), KvmError> {
        let region = self.slot.with(logging);
        // SAFETY: S, as `new` was promised: only the flag is other.
        again(|| unsafe { vm.set_memory(&region) })
            .map_err(|source| failed(&self.slot, Call::SetUserMemoryRegion, source))
    }

    /// Adds to `pages` what the kernel says. Where they are none the kernel writes their words itself: a
    /// second bitmap is as cold as the first after the guest has run.
    pub(super) fn get(&mut self, vm: &Vm, pages: &mut RegionSet) -> Result<(), KvmError> {
        let slot = &self.slot;
        if pages.is_empty() {
            return pages.overwrite(|words| read(slot, vm, words));
        }
        read(slot, vm, &mut self.spare)?;
        pages.insert_bitmap(&self.spare);
        Ok(())
    }

    /// Clears and protects the pages of `range` that are in `round` and dirty. They are read next, so
    /// it does not matter who has put them there. The others of a word keep their bits: a consumer that
    /// has copied them would not look there again.
    pub(super) fn clear(
        &mut self,
        vm: &Vm,
        range: GfnRange,
        round: &mut RegionSet,
    ) -> Result<(), KvmError> {
        let whole = self.slot.region().range;
        let Some(here) = whole.intersection(range) else { return Ok(()) };
        let first = here.first().get() - whole.first().get();
        let pages = first..first + here.pages();
        let (first, bitmap) = round.bitmap(pages.start / 64..pages.end.div_ceil(64));
        let others = |(word, held): (u64, &u64)| held & !mask(&pages, word) != 0;
        if !ends(first, bitmap).any(others) {
            return self.clear_words(vm, first, bitmap);
        }
        let spare = &mut self.spare[..bitmap.len()];
        spare.copy_from_slice(bitmap);
        (first..).zip(spare).for_each(|(word, held)| *held &= mask(&pages, word));
        self.clear_words(vm, first, &self.spare[..bitmap.len()])
    }

    /// Clears what is set in `bitmap`, which begins with word `first`, in one call: each costs a
    /// shoot-down.
    fn clear_words(&self, vm: &Vm, first: u64, bitmap: &[u64]) -> Result<(), KvmError> {
        if bitmap.is_empty() {
            return Ok(());
        }
        let end = (first + bitmap.len() as u64) * 64;
        let pages = end.min(self.slot.region().range.pages()) - first * 64;
        // A memslot has fewer pages than this type has numbers.
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let number = self.slot.number();
        again(|| vm.clear_dirty_log(number, first * 64, pages, bitmap))
            .map_err(|source| failed(&self.slot, Call::ClearDirtyLog, source))
    }
}

/// The first and the last word of a bitmap that begins with word `first`: of all others a range has all
/// pages.
fn ends(first: u64, bitmap: &[u64]) -> impl Iterator<Item = (u64, &u64)> {
    let last = (first + (bitmap.len() as u64).saturating_sub(1), bitmap.last());
    [(first, bitmap.first()), last].into_iter().filter_map(|(word, held)| Some((word, held?)))
}

/// Has the kernel write a slot's bitmap into `words`.
fn read(slot: &Memslot, vm: &Vm, words: &mut [u64]) -> Result<(), KvmError> {
    let failed = |source| failed(slot, Call::GetDirtyLog, source);
    if words.len() < length(slot) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: S, as `LoggedSlot::new` was promised: the slot has as many pages as it says, and `words`
    // a bit for each.
    again(|| unsafe { vm.get_dirty_log(slot.number(), words) }).map_err(failed)
}

fn failed(slot: &Memslot, call: Call, source: io::Error) -> KvmError {
    KvmError::Slot { call, slot: slot.region().slot, source }
}

/// Words of a slot's bitmap.
fn length(slot: &Memslot) -> usize {
    index(slot.region().range.pages().div_ceil(64))
}

/// Which of the 64 pages of `word` are in `pages`.
fn mask(pages: &Range<u64>, word: u64) -> u64 {
    let below = |end: u64| match end.saturating_sub(word * 64) {
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
