//! Translations that refuse, as a TLB keeps them that does not forget when an access faults.

use crate::walker::{Permissions, Translation};
use vellum_mmu::Access;
use vellum_pte::Gfn;

const ENTRIES: usize = 256;

#[derive(Clone, Copy)]
struct Refusal {
    gfn: Gfn,
    /// No walk is of epoch 0.
    epoch: u64,
    permits: Permissions,
}

/// Pages and what was permitted there when they were last walked, where that is not everything.
/// They refuse until the epoch moves on or the page is flushed, whatever the tables say by then.
pub(super) struct Refusals {
    entries: Box<[Refusal; ENTRIES]>,
}

impl Refusals {
    pub(super) fn new() -> Self {
        let nothing = Refusal { gfn: Gfn::new(0), epoch: 0, permits: Permissions::ALL };
        Self { entries: Box::new([nothing; ENTRIES]) }
    }

    /// Whether the page refuses `access` without a walk.
    pub(super) fn refuse(&self, gfn: Gfn, epoch: u64, access: Access) -> bool {
        let held = &self.entries[place(gfn)];
        held.gfn == gfn && held.epoch == epoch && !held.permits.allow(access)
    }

    /// Keeps what a walk has found.
    pub(super) fn keep(&mut self, gfn: Gfn, epoch: u64, found: Translation) {
        self.entries[place(gfn)] = Refusal { gfn, epoch, permits: found.permits };
    }

    /// Forgets one page.
    pub(super) fn forget(&mut self, gfn: Gfn) {
        let held = &mut self.entries[place(gfn)];
        if held.gfn == gfn {
            held.epoch = 0;
        }
    }

    /// Forgets everything: the root changed.
    pub(super) fn clear(&mut self) {
        for held in self.entries.iter_mut() {
            held.epoch = 0;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "hosts have 64-bit addresses")]
fn place(gfn: Gfn) -> usize {
    gfn.get() as usize % ENTRIES
}
