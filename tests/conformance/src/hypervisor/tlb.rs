//! A CPU's translations: leaves of each size, and where the last-level tables are.

use super::pages_of;
use std::collections::BTreeMap;
use vellum_mmu::Access;
use vellum_pte::{AddressSpace, Format, Gfn, Level, Pfn, Replace};

/// Whether a cached translation lets stores pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CachedWrite {
    Allowed,
    Refused,
}

/// What a TLB says of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// It passes, to this frame.
    Passes(Pfn),
    /// A translation is there and refuses it.
    Refuses,
    /// It knows nothing.
    Unknown,
}

/// A leaf, by space, first page and level.
type LeafKey = (AddressSpace, Gfn, Level);

/// What one CPU remembers until it is told to forget.
#[derive(Debug, Default)]
pub(super) struct Tlb {
    leaves: BTreeMap<LeafKey, (Pfn, CachedWrite)>,
    /// Last-level tables by space and 2 MiB, and whether stores pass on the way to them.
    tables: BTreeMap<(AddressSpace, u64), (Pfn, CachedWrite)>,
}

const LEVELS: [Level; 3] = [Level::L3, Level::L2, Level::L1];

fn key(space: AddressSpace, gfn: Gfn, level: Level) -> LeafKey {
    (space, Gfn::new(gfn.get() & !(pages_of(level) - 1)), level)
}

impl Tlb {
    /// Of several translations for one address, one that lets the access pass: hardware may use any.
    pub(super) fn answer(&self, space: AddressSpace, gfn: Gfn, access: Access) -> Answer {
        let mut answer = Answer::Unknown;
        for level in LEVELS {
            let Some((frame, write)) = self.leaves.get(&key(space, gfn, level)) else { continue };
            if access != Access::Write || *write == CachedWrite::Allowed {
                let within = gfn.get() & (pages_of(level) - 1);
                return Answer::Passes(Pfn::new(frame.get() + within));
            }
            answer = Answer::Refuses;
        }
        answer
    }

    pub(super) fn table(&self, space: AddressSpace, gfn: Gfn) -> Option<(Pfn, CachedWrite)> {
        self.tables.get(&(space, gfn.get() >> 9)).copied()
    }

    pub(super) fn keep_table(
        &mut self,
        (space, gfn): (AddressSpace, Gfn),
        table: Pfn,
        write: CachedWrite,
    ) {
        self.tables.insert((space, gfn.get() >> 9), (table, write));
    }

    /// Keeps a leaf whose first frame is `frame`.
    pub(super) fn keep_leaf(
        &mut self,
        (space, gfn): (AddressSpace, Gfn),
        level: Level,
        frame: Pfn,
        write: CachedWrite,
    ) {
        self.leaves.insert(key(space, gfn, level), (frame, write));
    }

    /// # Panics
    /// It holds a translation of another size for a page of the leaf, which hardware of this kind
    /// may not find beside it: of a smaller size anywhere (Intel's "iTLB multihit"), of a larger
    /// one where the architecture asks for break-before-make.
    pub(super) fn check_size<F: Format>(&self, space: AddressSpace, gfn: Gfn, level: Level) {
        let first = key(space, gfn, level).1;
        let end = Gfn::new(first.get() + pages_of(level));
        let inside = self.leaves.range((space, first, Level::L1)..(space, end, Level::L1));
        let smaller = inside.map(|((_, _, other), _)| *other).any(|other| other < level);
        let above = LEVELS.into_iter().filter(|other| *other > level);
        let larger =
            above.map(|other| key(space, gfn, other)).any(|key| self.leaves.contains_key(&key));
        let may_meet_larger = matches!(F::REPLACE, Replace::AtOnce);
        assert!(!smaller && (may_meet_larger || !larger), "both sizes at once at {gfn}: {level:?}");
    }

    /// Forgets what it has for one page, in both spaces.
    pub(super) fn forget(&mut self, gfn: Gfn) {
        for space in [AddressSpace::NORMAL, AddressSpace::SMM] {
            LEVELS.iter().for_each(|level| {
                self.leaves.remove(&key(space, gfn, *level));
            });
            self.tables.remove(&(space, gfn.get() >> 9));
        }
    }

    pub(super) fn clear(&mut self) {
        self.leaves.clear();
        self.tables.clear();
    }
}
