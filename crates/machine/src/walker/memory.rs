//! The walker's access to table memory: a load and a compare-exchange, as hardware's.

use crate::frames;
use std::sync::atomic::{AtomicU64, Ordering};
use vellum_pte::Pfn;

/// One entry of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryAt {
    pub(super) table: Pfn,
    /// Below 512.
    pub(super) index: usize,
}

impl EntryAt {
    /// Acquire: the table that the entry points to was filled before the entry was (its partner
    /// is the library's release when it links a table).
    #[inline]
    pub(super) fn load(self) -> u64 {
        self.cell().map_or(0, |cell| cell.load(Ordering::Acquire))
    }

    /// Makes the entry `marked` if it still is `raw`; whether it was.
    #[inline]
    pub(super) fn exchange(self, raw: u64, marked: u64) -> bool {
        raw == marked || self.cell().is_some_and(|cell| exchange(cell, raw, marked))
    }

    /// What software would write.
    #[cfg(test)]
    pub(super) fn store(self, raw: u64) {
        self.cell().expect("a table is not at address zero").store(raw, Ordering::Release);
    }

    /// A walk's tables are its root and what it read from present entries; from the walk cache, of
    /// the same epoch.
    #[inline]
    fn cell<'f>(self) -> Option<&'f AtomicU64> {
        frames::entry(self.table, self.index)
    }
}

/// Relaxed would do for A and D themselves; release orders nothing of ours, acquire as in `load`.
#[inline]
fn exchange(cell: &AtomicU64, old: u64, new: u64) -> bool {
    cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
