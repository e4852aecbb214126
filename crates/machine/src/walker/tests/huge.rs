//! Leaves of 2 MiB and 1 GiB: frames inside, A and D, the walk cache, in all three walkers.

use super::*;

/// Where a large page is.
const LARGE: u64 = 0x40_4000_0000;

/// How a processor's entries are spelt by hand.
struct Spelling {
    regime: Regime,
    table: u64,
    /// A leaf that is not at the last level, writable, without A and D.
    huge: u64,
}

const EPT: Spelling = Spelling { regime: X86, table: EPT_TABLE, huge: EPT_LEAF | HUGE };
const NPT: Spelling = Spelling { regime: X86, table: NPT_TABLE, huge: NPT_LEAF | HUGE };
const STAGE2: Spelling =
    Spelling { regime: stage2::USUAL, table: stage2::TABLE, huge: stage2::BLOCK };

impl Spelling {
    /// Tables whose last entry is a leaf at `level`.
    fn leaf_at(&self, level: u8) -> Tables {
        let depth = self.regime.level - level + 1;
        Tables::under(self.regime, depth, self.table, LARGE | self.huge)
    }
}

fn inside<W: Walk>(spelling: &Spelling) {
    for (level, inside) in [(2, 4), (3, 3 << 9 | 4)] {
        let found = spelling.leaf_at(level).walk::<W>(Access::Write).expect("translated");
        assert_eq!(found.frame, Pfn::new(Pfn::of_address(LARGE).get() + inside), "level {level}");
        assert_eq!(found.level, level);
    }
}

#[test]
fn a_page_inside_is_as_far_into_the_leaf_as_the_address_is() {
    inside::<EptWalker>(&EPT);
    inside::<NptWalker>(&NPT);
    inside::<Stage2Walker>(&STAGE2);
}

fn bits<W: Walk>(spelling: &Spelling) {
    for level in [2, 3] {
        let tables = spelling.leaf_at(level);
        assert!(!tables.has(level, W::ACCESSED));
        let read = tables.walk::<W>(Access::Read).expect("translated");
        assert!(tables.has(level, W::ACCESSED) && !tables.has(level, W::DIRTY));
        assert_eq!(read.dirty, Dirty::Clear);
        let above = level + 1..=spelling.regime.level;
        assert!(above.clone().all(|level| tables.has(level, W::TABLE_ACCESSED)));
        let write = tables.walk::<W>(Access::Write).expect("translated");
        assert!(tables.has(level, W::DIRTY));
        assert!(above.clone().all(|level| !tables.has(level, W::DIRTY)));
        assert_eq!(write.dirty, Dirty::Set);
    }
}

#[test]
fn a_and_d_are_the_leafs() {
    bits::<EptWalker>(&EPT);
    bits::<NptWalker>(&NPT);
    bits::<Stage2Walker>(&STAGE2);
}

fn unlinked<W: Walk>(spelling: &Spelling) {
    for level in [2, 3] {
        let tables = spelling.leaf_at(level);
        let mut cache = WalkCache::new();
        tables.walk_in::<W>(Access::Read, EPOCH, &mut cache).expect("translated");
        tables.clear(level, u64::MAX);
        let gone = tables.walk_in::<W>(Access::Read, EPOCH, &mut cache);
        assert_eq!(gone, Err(Violation::NotPresent), "the walk cache holds tables, not leaves");
    }
}

#[test]
fn a_leaf_is_not_in_the_walk_cache() {
    unlinked::<EptWalker>(&EPT);
    unlinked::<NptWalker>(&NPT);
    unlinked::<Stage2Walker>(&STAGE2);
}
