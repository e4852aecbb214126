//! A CPU's translations: leaves of each size, and where the last-level tables are.

use super::pages_of;
use std::collections::BTreeMap;
use vellum_mmu::Access;
use vellum_pte::{AddressSpace, Format, Gfn, Level, Pfn, Replace};

/// Whether a cached translation lets stores pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CachedWrite {
    Allowed,
    /// Where the sub-page permission table permits them.
    InPart,
    Refused,
}

/// Whether an access writes.
pub(super) const fn is_store(access: Access) -> bool {
    matches!(access, Access::Write | Access::Walk)
}

/// What a TLB says of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// It passes, to this frame.
    Passes(Pfn),
    /// It passes to this frame if its sub-pages may be written.
    PassesInPart(Pfn),
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
    /// Which sub-pages may be written, as the sub-page permission table has it. A fault does not make
    /// it forget that: the manual names guest-physical mappings only.
    vectors: BTreeMap<(AddressSpace, Gfn), u64>,
    /// Where those are, by space and 2 MiB.
    tables_of_vectors: BTreeMap<(AddressSpace, u64), Pfn>,
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
            let within = gfn.get() & (pages_of(level) - 1);
            let frame = Pfn::new(frame.get() + within);
            if !is_store(access) || *write == CachedWrite::Allowed {
                return Answer::Passes(frame);
            }
            // A walk of the guest's own tables is not eligible (Intel SDM vol. 3C, 29.3.4.1).
            answer = match (access, write) {
                (Access::Write, CachedWrite::InPart) => Answer::PassesInPart(frame),
                _ => Answer::Refuses,
            };
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

    pub(super) fn vector(&self, space: AddressSpace, gfn: Gfn) -> Option<u64> {
        self.vectors.get(&(space, gfn)).copied()
    }

    pub(super) fn keep_vector(&mut self, page: (AddressSpace, Gfn), vector: u64) {
        self.vectors.insert(page, vector);
    }

    pub(super) fn vectors(&self, space: AddressSpace, gfn: Gfn) -> Option<Pfn> {
        self.tables_of_vectors.get(&(space, gfn.get() >> 9)).copied()
    }

    pub(super) fn keep_vectors(&mut self, (space, gfn): (AddressSpace, Gfn), table: Pfn) {
        self.tables_of_vectors.insert((space, gfn.get() >> 9), table);
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
        self.vectors.clear();
        self.tables_of_vectors.clear();
    }
}
