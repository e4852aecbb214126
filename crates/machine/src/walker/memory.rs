//! The walker's access to table memory: a load and a compare-exchange, as hardware's.
#![allow(unsafe_code)]

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

    /// Sets `bits` in the entry if it still is `raw`; whether it was.
    #[inline]
    pub(super) fn mark(self, raw: u64, bits: u64) -> bool {
        raw & bits == bits || self.cell().is_some_and(|cell| exchange(cell, raw, raw | bits))
    }

    /// What software would write.
    #[cfg(test)]
    pub(super) fn store(self, raw: u64) {
        self.cell().expect("a table is not at address zero").store(raw, Ordering::Release);
    }

    #[inline]
    fn cell<'a>(self) -> Option<&'a AtomicU64> {
        let first = frames::entries(self.table)?;
        // SAFETY: T2: `table` is a VM's root or was read from a present entry of a linked table
        // during this walk (or during this epoch, by the walk cache), so it is a table frame, and
        // the quarantine keeps its memory a table's until this walk is over. T1: tables are only
        // ever accessed as atomics. `index` has nine bits, so it is inside the frame.
        Some(unsafe { first.add(self.index).as_ref() })
    }
}

/// Relaxed would do for A and D themselves; release orders nothing of ours, acquire as in `load`.
#[inline]
fn exchange(cell: &AtomicU64, old: u64, new: u64) -> bool {
    cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
