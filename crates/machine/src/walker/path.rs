//! The upper entries that one walk used.

use super::cache::{Position, WalkCache};
use super::memory::EntryAt;
use super::{Permissions, ROOT_LEVEL, Request, Walk};
use vellum_pte::Pfn;

const UPPER_LEVELS: usize = ROOT_LEVEL as usize - 1;

/// An upper entry as the walk found it.
#[derive(Clone, Copy)]
pub(super) struct Visit {
    pub(super) entry: EntryAt,
    pub(super) raw: u64,
    /// Where it leads, with the permissions combined down to there.
    pub(super) leads_to: Position,
    /// What the entry alone permits.
    pub(super) own: Permissions,
}

/// From the top (or from where a cached entry let the walk begin) downwards.
pub(super) struct Path {
    visits: [Visit; UPPER_LEVELS],
    len: usize,
}

impl Default for Path {
    fn default() -> Self {
        let nowhere = Pfn::new(0);
        let leads_to = Position { table: nowhere, level: 0, permits: Permissions::NONE };
        let visit = Visit { entry: EntryAt { table: nowhere, index: 0 }, raw: 0, leads_to, own: Permissions::NONE };
        Self { visits: [visit; UPPER_LEVELS], len: 0 }
    }
}

impl Path {
    pub(super) fn push(&mut self, visit: Visit) {
        self.visits[self.len] = visit;
        self.len += 1;
    }

    /// Sets A in each; whether none had changed.
    pub(super) fn mark<W: Walk>(&self) -> bool {
        self.visits().all(|visit| visit.entry.mark(visit.raw, W::ACCESSED))
    }

    /// Lets the walk cache have them.
    pub(super) fn remember<W: Walk>(&self, request: Request, cache: &mut WalkCache) {
        for visit in self.visits() {
            let combined = W::CACHED_ENTRIES_CARRY_PERMISSIONS;
            let permits = if combined { visit.leads_to.permits } else { visit.own };
            cache.insert(request.gpa, request.epoch, Position { permits, ..visit.leads_to });
        }
    }

    fn visits(&self) -> impl Iterator<Item = &Visit> {
        self.visits[..self.len].iter()
    }
}
