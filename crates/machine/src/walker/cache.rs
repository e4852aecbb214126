//! The walk cache: what processors call paging-structure caches.
//!
//! It keeps, for an address range, the table that translates it and the permissions combined on
//! the way there, until the epoch moves on or an address in the range is forgotten. A shoot-down
//! that the library forgets after closing an upper entry therefore shows. For the sub-page permission
//! table it keeps the same, of entries that were valid.

use super::memory::EntryAt;
use super::spp::SppPosition;
use super::{INDEX_BITS, Link, MOST_LEVELS, Permissions, Request, Walk, index, root_table};
use vellum_pte::{Gpa, PAGE_SHIFT, Pfn};

/// Ranges kept a level.
const WAYS: usize = 64;
/// Tables of levels 1 to 3 are worth caching, those below the root; where the root is, is known.
const CACHED_LEVELS: usize = MOST_LEVELS as usize - 1;
/// No address has this key: keys are addresses shifted right.
const NOBODY: u64 = u64::MAX;

/// A place to go on walking from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) table: Pfn,
    pub(super) level: u8,
    /// What the entries above permit, combined.
    pub(super) permits: Permissions,
}

impl Position {
    #[inline]
    pub(super) fn root(request: Request) -> Self {
        let level = request.regime.level;
        Self { table: root_table(request), level, permits: Permissions::ALL }
    }

    /// The table below, by `link`.
    #[inline]
    pub(super) fn below(self, link: Link) -> Self {
        let permits = self.permits.and(link.permits);
        Self { table: link.frame, level: self.level - 1, permits }
    }

    /// What the cache keeps of a position that `link` led to.
    #[inline]
    pub(super) fn kept<W: Walk>(self, link: Link) -> Self {
        let combined = W::CACHED_ENTRIES_CARRY_PERMISSIONS;
        Self { permits: if combined { self.permits } else { link.permits }, ..self }
    }

    /// The entry that translates `gpa` here.
    #[inline]
    pub(super) fn entry(self, gpa: Gpa) -> EntryAt {
        EntryAt { table: self.table, index: index(gpa, self.level) }
    }
}

/// What a processor keeps of its walks.
pub(crate) struct WalkCache {
    /// Of the second-stage tables.
    pub(super) tables: Ranges<Position>,
    /// Of the sub-page permission table.
    pub(super) spp: Ranges<SppPosition>,
}

impl WalkCache {
    pub(crate) fn new() -> Self {
        Self { tables: Ranges::new(), spp: Ranges::new() }
    }

    /// Forgets what would translate `gpa`.
    #[inline]
    pub(crate) fn forget(&mut self, gpa: Gpa) {
        self.tables.forget(gpa);
        self.spp.forget(gpa);
    }

    /// Forgets everything: a root changed.
    pub(crate) fn clear(&mut self) {
        self.tables.clear();
        self.spp.clear();
    }
}

#[derive(Clone, Copy)]
struct Cached<P> {
    key: u64,
    epoch: u64,
    /// There once the key is an address's.
    position: Option<P>,
}

/// Positions by the range of addresses they translate: direct-mapped, an array a level.
pub(super) struct Ranges<P> {
    levels: Box<[[Cached<P>; WAYS]; CACHED_LEVELS]>,
}

impl<P: Copy> Ranges<P> {
    fn new() -> Self {
        let nothing = Cached { key: NOBODY, epoch: 0, position: None };
        Self { levels: Box::new([[nothing; WAYS]; CACHED_LEVELS]) }
    }

    /// The lowest position known for `gpa` in this epoch.
    #[inline]
    pub(super) fn deepest(&self, gpa: Gpa, epoch: u64) -> Option<P> {
        (1..MOST_LEVELS).find_map(|level| {
            let cached = &self.levels[usize::from(level) - 1][way(gpa, level)];
            let hit = cached.key == key(gpa, level) && cached.epoch == epoch;
            cached.position.filter(|_| hit)
        })
    }

    /// Keeps that `position`, at `level`, translates the range around `gpa`.
    #[inline]
    pub(super) fn insert(&mut self, gpa: Gpa, epoch: u64, level: u8, position: P) {
        self.levels[usize::from(level) - 1][way(gpa, level)] =
            Cached { key: key(gpa, level), epoch, position: Some(position) };
    }

    /// Forgets what would translate `gpa`.
    #[inline]
    fn forget(&mut self, gpa: Gpa) {
        for level in 1..MOST_LEVELS {
            let cached = &mut self.levels[usize::from(level) - 1][way(gpa, level)];
            if cached.key == key(gpa, level) {
                cached.key = NOBODY;
            }
        }
    }

    fn clear(&mut self) {
        for cached in self.levels.as_flattened_mut() {
            cached.key = NOBODY;
        }
    }
}

/// Which range of a table at `level` the address is in.
#[inline]
fn key(gpa: Gpa, level: u8) -> u64 {
    gpa.get() >> (PAGE_SHIFT + INDEX_BITS * u32::from(level))
}

#[inline]
fn way(gpa: Gpa, level: u8) -> usize {
    (key(gpa, level) % WAYS as u64) as usize
}
