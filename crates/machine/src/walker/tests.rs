//! The walkers against tables written by hand, bit by bit, from the manuals.

use super::*;
use crate::frames::{Frames, Walks};
use proptest::prelude::*;

/// Nobody else walks.
struct NoWalks;

impl Walks for NoWalks {
    fn now(&self) -> u64 {
        0
    }

    fn oldest(&self) -> u64 {
        u64::MAX
    }
}

/// The indices 1, 2, 3, 4 and the offset 5.
const GPA: Gpa = Gpa::new(1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5);
const EPOCH: u64 = 1;
/// Where the page is: nothing reads it.
const PAGE: u64 = 0x1234_5000;

const EPT_TABLE: u64 = 0b111;
const EPT_LEAF: u64 = 0b111 | 6 << 3;
const EPT_W: u64 = 1 << 1;
const EPT_A: u64 = 1 << 8;
const EPT_D: u64 = 1 << 9;
const NPT_TABLE: u64 = 0b111;
const NPT_LEAF: u64 = 0b111;
const NPT_W: u64 = 1 << 1;
const NPT_US: u64 = 1 << 2;
const NPT_A: u64 = 1 << 5;
const NPT_D: u64 = 1 << 6;
const NPT_NX: u64 = 1 << 63;
const HUGE: u64 = 1 << 7;

/// A path of entries for [`GPA`], the first at level 4; the frames live as long as it does.
struct Tables {
    _frames: Frames,
    entries: Vec<EntryAt>,
}

impl Tables {
    /// `upper` in each entry but the last, with the address of the next table; `leaf` in the last,
    /// which is at level `5 - depth`.
    fn new(depth: u8, upper: u64, leaf: u64) -> Self {
        let frames = Frames::new(None);
        let entries: Vec<EntryAt> = (0..depth)
            .map(|step| EntryAt {
                table: frames.allocate(&NoWalks).expect("the host has memory"),
                index: index(GPA, ROOT_LEVEL - step),
            })
            .collect();
        for pair in entries.windows(2) {
            pair[0].store(pair[1].table.address() | upper);
        }
        entries[usize::from(depth) - 1].store(leaf);
        Self { _frames: frames, entries }
    }

    fn entry(&self, level: u8) -> EntryAt {
        self.entries[usize::from(ROOT_LEVEL - level)]
    }

    fn set(&self, level: u8, bits: u64) {
        self.entry(level).store(self.entry(level).load() | bits);
    }

    fn clear(&self, level: u8, bits: u64) {
        self.entry(level).store(self.entry(level).load() & !bits);
    }

    fn has(&self, level: u8, bits: u64) -> bool {
        self.entry(level).load() & bits == bits
    }

    fn walk_in<W: Walk>(
        &self,
        access: Access,
        epoch: u64,
        cache: &mut WalkCache,
    ) -> Result<Translation, Violation> {
        let root = self.entry(ROOT_LEVEL).table;
        walk::<W>(Request { root, gpa: GPA, access, epoch }, cache)
    }

    fn walk<W: Walk>(&self, access: Access) -> Result<Translation, Violation> {
        self.walk_in::<W>(access, EPOCH, &mut WalkCache::new())
    }
}

fn ept() -> Tables {
    Tables::new(4, EPT_TABLE, PAGE | EPT_LEAF)
}

fn npt() -> Tables {
    Tables::new(4, NPT_TABLE, PAGE | NPT_LEAF)
}

fn frame(result: Result<Translation, Violation>) -> Pfn {
    result.expect("translated").frame
}

#[test]
fn a_walk_takes_nine_bits_a_level() {
    assert_eq!(frame(ept().walk::<EptWalker>(Access::Read)), Pfn::of_address(PAGE));
    assert_eq!(frame(npt().walk::<NptWalker>(Access::Read)), Pfn::of_address(PAGE));
    let indices: Vec<usize> = (1..=4).rev().map(|level| index(GPA, level)).collect();
    assert_eq!(indices, [1, 2, 3, 4]);
}

#[test]
fn large_pages_add_the_address_bits_below_them() {
    let inside_2m = Pfn::of_address(0x4000_0000 + (4 << 12));
    let leaf = 0x4000_0000 | HUGE;
    assert_eq!(
        frame(Tables::new(3, EPT_TABLE, leaf | EPT_LEAF).walk::<EptWalker>(Access::Read)),
        inside_2m
    );
    assert_eq!(
        frame(Tables::new(3, NPT_TABLE, leaf | NPT_LEAF).walk::<NptWalker>(Access::Read)),
        inside_2m
    );
    let inside_1g = Pfn::of_address(0x4000_0000 + (3 << 21 | 4 << 12));
    assert_eq!(
        frame(Tables::new(2, EPT_TABLE, leaf | EPT_LEAF).walk::<EptWalker>(Access::Read)),
        inside_1g
    );
    assert_eq!(
        frame(Tables::new(2, NPT_TABLE, leaf | NPT_LEAF).walk::<NptWalker>(Access::Read)),
        inside_1g
    );
}

#[test]
fn an_entry_that_is_not_present_stops_the_walk_at_any_level() {
    for level in 1..=4 {
        let tables = ept();
        tables.clear(level, 0b111);
        assert_eq!(tables.walk::<EptWalker>(Access::Read), Err(Violation::NotPresent));
        let tables = npt();
        tables.clear(level, 1);
        assert_eq!(tables.walk::<NptWalker>(Access::Read), Err(Violation::NotPresent));
    }
}

#[test]
fn a_write_needs_write_permission_at_every_level() {
    for level in 1..=4 {
        let tables = ept();
        tables.clear(level, EPT_W);
        assert_eq!(tables.walk::<EptWalker>(Access::Write), Err(Violation::Denied));
        assert!(tables.walk::<EptWalker>(Access::Read).is_ok());
        let tables = npt();
        tables.clear(level, NPT_W);
        assert_eq!(tables.walk::<NptWalker>(Access::Write), Err(Violation::Denied));
        assert!(tables.walk::<NptWalker>(Access::Read).is_ok());
    }
}

#[test]
fn a_fetch_needs_execute_permission_at_every_level() {
    for level in 1..=4 {
        let tables = ept();
        tables.clear(level, 1 << 2);
        assert_eq!(tables.walk::<EptWalker>(Access::Execute), Err(Violation::Denied));
        assert!(tables.walk::<EptWalker>(Access::Write).is_ok());
        let tables = npt();
        tables.set(level, NPT_NX);
        assert_eq!(tables.walk::<NptWalker>(Access::Execute), Err(Violation::Denied));
        assert!(tables.walk::<NptWalker>(Access::Write).is_ok());
    }
}

#[test]
fn nested_accesses_are_user_accesses() {
    for level in 1..=4 {
        let tables = npt();
        tables.clear(level, NPT_US);
        assert_eq!(tables.walk::<NptWalker>(Access::Read), Err(Violation::Denied));
    }
}

#[test]
fn an_execute_only_entry_permits_fetches_alone() {
    let tables = ept();
    tables.clear(1, 0b011);
    assert!(tables.walk::<EptWalker>(Access::Execute).is_ok());
    assert_eq!(tables.walk::<EptWalker>(Access::Read), Err(Violation::Denied));
}

#[test]
fn a_writable_entry_that_is_not_readable_is_a_misconfiguration() {
    for level in 1..=4 {
        for permissions in [0b010, 0b110] {
            let tables = ept();
            tables.clear(level, 0b111);
            tables.set(level, permissions);
            assert_eq!(tables.walk::<EptWalker>(Access::Read), Err(Violation::Misconfigured));
        }
    }
}

#[test]
fn a_reserved_memory_type_is_a_misconfiguration() {
    for (memory_type, good) in
        [(0, true), (1, true), (2, false), (3, false), (4, true), (5, true), (6, true), (7, false)]
    {
        let tables = ept();
        tables.clear(1, 7 << 3);
        tables.set(1, memory_type << 3);
        assert_eq!(tables.walk::<EptWalker>(Access::Read).is_ok(), good, "type {memory_type}");
    }
}

#[test]
fn reserved_bits_are_misconfigurations() {
    let refuses = |level, bit| {
        let tables = ept();
        tables.set(level, 1u64 << bit);
        tables.walk::<EptWalker>(Access::Read) == Err(Violation::Misconfigured)
    };
    for bit in 3..7 {
        assert!((2..=4).all(|level| refuses(level, bit)), "bit {bit} of a table's entry");
    }
    assert!(refuses(4, 7), "no page of 512 GiB");
    assert!((1..=4).all(|level| refuses(level, 51)), "beyond the physical address width");
    let refuses = |level, bit| {
        let tables = npt();
        tables.set(level, 1u64 << bit);
        tables.walk::<NptWalker>(Access::Read) == Err(Violation::Misconfigured)
    };
    assert!(refuses(4, 7) && refuses(4, 8));
    assert!(!refuses(1, 7), "PAT at level 1");
    assert!((1..=4).all(|level| refuses(level, 51)), "beyond the physical address width");
}

#[test]
fn address_bits_inside_a_large_page_are_reserved() {
    let ept_refuses = |depth, bit: u32| {
        let tables = Tables::new(depth, EPT_TABLE, 0x4000_0000 | EPT_LEAF | HUGE | 1 << bit);
        tables.walk::<EptWalker>(Access::Read) == Err(Violation::Misconfigured)
    };
    assert!((12..=20).all(|bit| ept_refuses(3, bit)) && !ept_refuses(3, 21));
    assert!((12..=29).all(|bit| ept_refuses(2, bit)) && !ept_refuses(2, 31));
    let npt_refuses = |depth, bit: u32| {
        let tables = Tables::new(depth, NPT_TABLE, 0x4000_0000 | NPT_LEAF | HUGE | 1 << bit);
        tables.walk::<NptWalker>(Access::Read) == Err(Violation::Misconfigured)
    };
    assert!((13..=20).all(|bit| npt_refuses(3, bit)) && !npt_refuses(3, 12), "bit 12 is PAT");
    assert!((13..=29).all(|bit| npt_refuses(2, bit)) && !npt_refuses(2, 12), "bit 12 is PAT");
}

fn a_and_d<W: Walk>(tables: &Tables) {
    assert!((1..=4).all(|level| !tables.has(level, W::ACCESSED)));
    tables.walk::<W>(Access::Read).expect("translated");
    assert!((1..=4).all(|level| tables.has(level, W::ACCESSED)));
    assert!((1..=4).all(|level| !tables.has(level, W::DIRTY)), "a read dirties nothing");
    tables.walk::<W>(Access::Write).expect("translated");
    assert!(tables.has(1, W::DIRTY));
    assert!((2..=4).all(|level| !tables.has(level, W::DIRTY)), "D is the leaf's alone");
}

#[test]
fn a_is_set_at_every_level_and_d_by_a_write_at_the_leaf() {
    assert_eq!((EptWalker::ACCESSED, EptWalker::DIRTY), (EPT_A, EPT_D));
    assert_eq!((NptWalker::ACCESSED, NptWalker::DIRTY), (NPT_A, NPT_D));
    a_and_d::<EptWalker>(&ept());
    a_and_d::<NptWalker>(&npt());
}

#[test]
fn a_refused_access_sets_neither_a_nor_d() {
    let tables = ept();
    tables.clear(1, EPT_W);
    let _ = tables.walk::<EptWalker>(Access::Write);
    assert!((1..=4).all(|level| !tables.has(level, EPT_A)));
    assert!(!tables.has(1, EPT_D));
}

#[test]
fn a_translation_whose_d_is_clear_is_not_for_writing() {
    let tables = ept();
    let read = tables.walk::<EptWalker>(Access::Read).expect("translated");
    assert!(!read.permits.allow(Access::Write), "a write must walk to set D");
    tables.walk::<EptWalker>(Access::Write).expect("translated");
    let read = tables.walk::<EptWalker>(Access::Read).expect("translated");
    assert!(read.permits.allow(Access::Write), "D is set already");
}

#[test]
fn marking_an_entry_that_changed_meanwhile_is_refused() {
    let tables = ept();
    let leaf = tables.entry(1);
    let before = leaf.load();
    tables.clear(1, EPT_W);
    assert!(!leaf.mark(before, EPT_A | EPT_D));
    assert!(!tables.has(1, EPT_D), "D does not land in a protected entry");
}

/// Closes the root after its path was cached by a write.
fn write_behind_a_closed_root(tables: &Tables, epoch: u64) -> Result<Translation, Violation> {
    let mut cache = WalkCache::new();
    tables.walk_in::<EptWalker>(Access::Write, EPOCH, &mut cache).expect("translated");
    tables.clear(4, EPT_W);
    tables.walk_in::<EptWalker>(Access::Write, epoch, &mut cache)
}

#[test]
fn the_walk_cache_does_not_see_a_closed_entry_until_the_epoch_moves_on() {
    assert!(write_behind_a_closed_root(&ept(), EPOCH).is_ok(), "nobody shot it down");
    assert_eq!(write_behind_a_closed_root(&ept(), EPOCH + 1), Err(Violation::Denied));
}

#[test]
fn the_walk_cache_does_not_see_an_unlinked_table_until_the_epoch_moves_on() {
    let tables = ept();
    let mut cache = WalkCache::new();
    tables.walk_in::<EptWalker>(Access::Read, EPOCH, &mut cache).expect("translated");
    tables.clear(3, u64::MAX);
    assert!(tables.walk_in::<EptWalker>(Access::Read, EPOCH, &mut cache).is_ok());
    let after = tables.walk_in::<EptWalker>(Access::Read, EPOCH + 1, &mut cache);
    assert_eq!(after, Err(Violation::NotPresent));
}

#[test]
fn a_fault_makes_the_walk_cache_forget_its_address() {
    let tables = ept();
    let mut cache = WalkCache::new();
    tables.walk_in::<EptWalker>(Access::Write, EPOCH, &mut cache).expect("translated");
    tables.clear(4, EPT_W);
    cache.forget(GPA);
    let after = tables.walk_in::<EptWalker>(Access::Write, EPOCH, &mut cache);
    assert_eq!(after, Err(Violation::Denied));
}

/// Reads under a closed root, which caches the open entries below it, and then writes by them.
fn write_by_entries_cached_under_a_closed_root<W: Walk>() -> Result<Translation, Violation> {
    let tables = ept();
    tables.clear(4, EPT_W);
    let mut cache = WalkCache::new();
    tables.walk_in::<W>(Access::Read, EPOCH, &mut cache).expect("translated");
    tables.walk_in::<W>(Access::Write, EPOCH, &mut cache)
}

#[test]
fn an_entry_below_one_without_a_is_not_cached() {
    let tables = ept();
    tables.walk::<EptWalker>(Access::Read).expect("translated");
    for level in 2..=4 {
        tables.clear(level, EPT_A);
        let mut cache = WalkCache::new();
        tables.walk_in::<EptWalker>(Access::Read, EPOCH, &mut cache).expect("translated");
        assert!(tables.has(level, EPT_A), "the entry at level {level} was used");
    }
}

/// A processor that no manual describes.
struct ForgetfulWalker;

impl Walk for ForgetfulWalker {
    const ACCESSED: u64 = EptWalker::ACCESSED;
    const DIRTY: u64 = EptWalker::DIRTY;
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = false;

    fn read(raw: u64, level: u8) -> Step {
        EptWalker::read(raw, level)
    }
}

#[test]
fn a_cached_entry_carries_the_permissions_above_it() {
    let refused = write_by_entries_cached_under_a_closed_root::<EptWalker>();
    assert_eq!(refused, Err(Violation::Denied));
    assert!(write_by_entries_cached_under_a_closed_root::<ForgetfulWalker>().is_ok());
}

proptest! {
    /// What the library spells, the walkers read as it was meant.
    #[test]
    fn the_library_and_the_walkers_agree_on_leaves(
        frame in 0u64..1 << 36,
        storable in any::<bool>(),
        dirty in any::<bool>(),
    ) {
        use vellum_pte::{Entry, Leaf, Level, Write};
        let write = if storable { Write::Storable } else { Write::Liftable };
        let leaf = Entry::Leaf(Leaf { accessed: true, dirty, ..Leaf::new(Pfn::new(frame), write) });
        let link = |step| match step {
            Step::Page(link) => Some(link),
            _ => None,
        };
        let ept = link(EptWalker::read(Ept::encode(leaf, Level::L1).0, 1)).expect("a page");
        let npt = link(NptWalker::read(Npt::encode(leaf, Level::L1).0, 1)).expect("a page");
        for link in [ept, npt] {
            prop_assert_eq!(link.frame, Pfn::new(frame));
            prop_assert_eq!(link.permits.allow(Access::Write), storable);
            prop_assert!(link.permits.allow(Access::Read) && link.permits.allow(Access::Execute));
        }
    }

    #[test]
    fn the_library_and_the_walkers_agree_on_tables(
        frame in 0u64..1 << 36,
        open in any::<bool>(),
        level in 2u8..=4,
    ) {
        use vellum_pte::{Entry, Gate, Level};
        let gate = if open { Gate::Open } else { Gate::Closed };
        let entry = Entry::table(Pfn::new(frame), gate);
        let at = [Level::L2, Level::L3, Level::L4][usize::from(level - 2)];
        let ept = EptWalker::read(Ept::encode(entry, at).0, level);
        let npt = NptWalker::read(Npt::encode(entry, at).0, level);
        for step in [ept, npt] {
            let Step::Table(link) = step else { panic!("{step:?} for a table") };
            prop_assert_eq!(link.frame, Pfn::new(frame));
            prop_assert_eq!(link.permits.allow(Access::Write), open);
            prop_assert!(link.permits.allow(Access::Read) && link.permits.allow(Access::Execute));
        }
    }

    #[test]
    fn the_library_and_the_walkers_agree_on_large_pages(
        number in 0u64..1 << 18,
        storable in any::<bool>(),
        level in 2u8..=3,
    ) {
        use vellum_pte::{Entry, Leaf, Level, Write};
        let frame = Pfn::new(number << (9 * u32::from(level - 1)));
        let write = if storable { Write::Storable } else { Write::Denied };
        let at = [Level::L2, Level::L3][usize::from(level - 2)];
        let leaf = Entry::Leaf(Leaf::new(frame, write));
        let ept = EptWalker::read(Ept::encode(leaf, at).0, level);
        let npt = NptWalker::read(Npt::encode(leaf, at).0, level);
        for step in [ept, npt] {
            let Step::Page(link) = step else { panic!("{step:?} for a page") };
            prop_assert_eq!(link.frame, frame);
            prop_assert_eq!(link.permits.allow(Access::Write), storable);
        }
    }

    #[test]
    fn no_bits_make_a_walker_panic(bits in any::<u64>(), level in 1u8..=4) {
        let _ = EptWalker::read(bits, level);
        let _ = NptWalker::read(bits, level);
    }
}
