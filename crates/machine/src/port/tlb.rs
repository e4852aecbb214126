//! A port's translation cache: direct-mapped, flushed by the epoch.
#![allow(clippy::cast_possible_truncation, reason = "hosts have 64-bit addresses")]

use super::host::HostAddress;
use super::window::Target;
use crate::walker::{Dirty, Permissions, Translation};
use vellum_pte::{Gfn, Gpa, Pfn};

const ENTRIES: usize = 1024;
/// No page has this number: a frame number has at most 52 bits.
const NOBODY: u64 = u64::MAX;

/// Half a cache line.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Entry {
    /// The page that reads find here.
    read: u64,
    /// The page that writes find here, if they may go on without a walk.
    write: u64,
    epoch: u64,
    frame: Pfn,
}

/// 1024 translations. An entry of an older epoch is there and of no use.
pub(super) struct Tlb {
    entries: Box<[Entry; ENTRIES]>,
}

impl Tlb {
    pub(super) fn new() -> Self {
        let nothing = Entry { read: NOBODY, write: NOBODY, epoch: 0, frame: Pfn::new(0) };
        Self { entries: Box::new([nothing; ENTRIES]) }
    }

    /// For a load. Whether it is of this epoch, the access itself finds out.
    #[inline]
    pub(super) fn for_read(&self, gpa: Gpa) -> Option<Target> {
        let entry = &self.entries[place(gpa.gfn())];
        (entry.read == gpa.gfn().get()).then(|| entry.target(gpa))
    }

    /// For a store.
    #[inline]
    pub(super) fn for_write(&self, gpa: Gpa) -> Option<Target> {
        let entry = &self.entries[place(gpa.gfn())];
        (entry.write == gpa.gfn().get()).then(|| entry.target(gpa))
    }

    #[inline]
    pub(super) fn insert(&mut self, gfn: Gfn, epoch: u64, translation: Translation) {
        let tag = |needed: Permissions| {
            let permitted = translation.permits.and(needed) == needed;
            if permitted { gfn.get() } else { NOBODY }
        };
        self.entries[place(gfn)] = Entry {
            read: tag(Permissions::READ),
            write: match translation.dirty {
                Dirty::Set => tag(Permissions::WRITE),
                Dirty::Clear => NOBODY,
            },
            epoch,
            frame: translation.frame,
        };
    }

    /// Forgets one page.
    #[inline]
    pub(super) fn forget(&mut self, gfn: Gfn) {
        let entry = &mut self.entries[place(gfn)];
        if entry.read == gfn.get() || entry.write == gfn.get() {
            entry.read = NOBODY;
            entry.write = NOBODY;
        }
    }

    /// Forgets everything: the root changed.
    pub(super) fn clear(&mut self) {
        for entry in self.entries.iter_mut() {
            entry.read = NOBODY;
            entry.write = NOBODY;
        }
    }
}

impl Entry {
    #[inline]
    fn target(&self, gpa: Gpa) -> Target {
        Target { host: HostAddress::new(self.frame, gpa.offset()), epoch: self.epoch }
    }
}

#[inline]
fn place(gfn: Gfn) -> usize {
    gfn.get() as usize % ENTRIES
}
