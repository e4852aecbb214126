//! For tests: one entry on an address's path, read and spoilt behind the library's back.

use super::memory::EntryAt;
use super::{ADDRESS, ROOT_LEVEL, index};
use vellum_pte::{Gpa, Pfn};

/// The entry at `level`.
pub(crate) fn read(root: Pfn, gpa: Gpa, level: u8) -> u64 {
    entry(root, gpa, level).load()
}

/// Clears `bits` of the entry at `level`, and tells nobody.
pub(crate) fn clear(root: Pfn, gpa: Gpa, level: u8, bits: u64) {
    let entry = entry(root, gpa, level);
    entry.store(entry.load() & !bits);
}

fn entry(root: Pfn, gpa: Gpa, level: u8) -> EntryAt {
    let table = (level..ROOT_LEVEL).rev().fold(root, |table, above| {
        let raw = EntryAt { table, index: index(gpa, above + 1) }.load();
        assert_ne!(raw & ADDRESS, 0, "nothing is linked at level {}", above + 1);
        Pfn::of_address(raw & ADDRESS)
    });
    EntryAt { table, index: index(gpa, level) }
}
