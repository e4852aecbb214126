//! Translations that permit writes to a part of their page: what a TLB keeps of a leaf whose writes
//! are looked up in the sub-page permission table (Intel SDM vol. 3C, 29.4.2).
//!
//! A table beside the [`Tlb`](super::tlb::Tlb), so that ordinary stores know nothing of it. A
//! permitted sub-page is written by it until the epoch moves on or the page is forgotten, whatever
//! the tables say by then; one that it does not permit is walked for.

use super::host::HostAddress;
use super::window::Target;
use crate::walker::{SubPages, Translation};
use vellum_pte::{Gfn, Gpa, Pfn};

const ENTRIES: usize = 256;

#[derive(Clone, Copy)]
struct Entry {
    gfn: Gfn,
    /// No walk is of epoch 0.
    epoch: u64,
    frame: Pfn,
    permitted: SubPages,
}

pub(super) struct PartialTlb {
    entries: Box<[Entry; ENTRIES]>,
}

impl PartialTlb {
    pub(super) fn new() -> Self {
        let nothing =
            Entry { gfn: Gfn::new(0), epoch: 0, frame: Pfn::new(0), permitted: SubPages::NONE };
        Self { entries: Box::new([nothing; ENTRIES]) }
    }

    /// For a store of `bytes` bytes, all in the page of `gpa`. Whether it is of this epoch, the access
    /// itself finds out.
    pub(super) fn for_write(&self, gpa: Gpa, bytes: u64) -> Option<Target> {
        let entry = &self.entries[place(gpa.gfn())];
        let hit = entry.epoch != 0 && entry.gfn == gpa.gfn() && entry.permitted.permit(gpa, bytes);
        let host = HostAddress::new(entry.frame, gpa.offset());
        hit.then_some(Target { host, epoch: entry.epoch })
    }

    /// Keeps a translation, if it is one of these.
    pub(super) fn insert(&mut self, gfn: Gfn, epoch: u64, found: Translation) {
        let Translation { frame, sub_pages: permitted, .. } = found;
        if permitted != SubPages::NONE {
            self.entries[place(gfn)] = Entry { gfn, epoch, frame, permitted };
        }
    }

    /// Forgets one page.
    pub(super) fn forget(&mut self, gfn: Gfn) {
        let entry = &mut self.entries[place(gfn)];
        if entry.gfn == gfn {
            entry.epoch = 0;
        }
    }

    /// Forgets everything: a root changed.
    pub(super) fn clear(&mut self) {
        for entry in self.entries.iter_mut() {
            entry.epoch = 0;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "hosts have 64-bit addresses")]
fn place(gfn: Gfn) -> usize {
    gfn.get() as usize % ENTRIES
}
