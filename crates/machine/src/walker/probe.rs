//! For tests: one entry on an address's path, read and spoilt behind the library's back.

use super::memory::EntryAt;
use super::{ADDRESS, Regime, Request, index, root_table};
use vellum_mmu::Access;
use vellum_pte::{Gpa, Pfn};

/// Tables as a walker is given them.
#[derive(Clone, Copy)]
pub(crate) struct Probe {
    pub(crate) root: Pfn,
    pub(crate) regime: Regime,
}

impl Probe {
    /// The entry at `level`.
    pub(crate) fn read(self, gpa: Gpa, level: u8) -> u64 {
        self.entry(gpa, level).load()
    }

    /// Writes the entry at `level`, and tells nobody.
    pub(crate) fn write(self, gpa: Gpa, level: u8, raw: u64) {
        self.entry(gpa, level).store(raw);
    }

    /// Clears `bits` of the entry at `level`, and tells nobody.
    pub(crate) fn clear(self, gpa: Gpa, level: u8, bits: u64) {
        self.write(gpa, level, self.read(gpa, level) & !bits);
    }

    /// The entry at `level` of the sub-page permission table whose root is `root`. Level 1 has the
    /// vector.
    pub(crate) fn spp(root: Pfn, gpa: Gpa, level: u8) -> u64 {
        Self::spp_entry(root, gpa, level).load()
    }

    /// Toggles `bits` of it, and tells nobody.
    pub(crate) fn toggle_spp(root: Pfn, gpa: Gpa, level: u8, bits: u64) {
        let entry = Self::spp_entry(root, gpa, level);
        entry.store(entry.load() ^ bits);
    }

    fn spp_entry(root: Pfn, gpa: Gpa, level: u8) -> EntryAt {
        let table = (level..4).rev().fold(root, |table, above| {
            let raw = EntryAt { table, index: index(gpa, above + 1) }.load();
            Pfn::of_address(raw & ADDRESS)
        });
        EntryAt { table, index: index(gpa, level) }
    }

    fn entry(self, gpa: Gpa, level: u8) -> EntryAt {
        let Self { root, regime } = self;
        let first = root_table(Request {
            root,
            regime,
            gpa,
            access: Access::Read,
            bytes: 1,
            spp_root: None,
            epoch: 0,
        });
        let table = (level..regime.level).rev().fold(first, |table, above| {
            let raw = EntryAt { table, index: index(gpa, above + 1) }.load();
            assert_ne!(raw & ADDRESS, 0, "nothing is linked at level {}", above + 1);
            Pfn::of_address(raw & ADDRESS)
        });
        EntryAt { table, index: index(gpa, level) }
    }
}
