//! The walkers against tables written by hand, bit by bit, from the manuals.

mod agree;
mod huge;
mod spp;
mod stage2;

use super::*;
use crate::frames::{Frames, Walks};

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

/// Four levels of 48 bits.
const X86: Regime = Regime { level: 4, address_bits: 48, flags: AccessFlags::ByHardware };

/// A path of entries for [`GPA`]; the frames live as long as it does.
struct Tables {
    _frames: Frames,
    root: Pfn,
    regime: Regime,
    /// The first at the regime's level.
    entries: Vec<EntryAt>,
}

impl Tables {
    /// `upper` in each entry but the last, with the address of the next table; `leaf` in the last,
    /// which is at level `5 - depth`.
    fn new(depth: u8, upper: u64, leaf: u64) -> Self {
        Self::under(X86, depth, upper, leaf)
    }

    /// The same under another regime: the last entry is `depth - 1` levels below its root.
    fn under(regime: Regime, depth: u8, upper: u64, leaf: u64) -> Self {
        let frames = Frames::new(None);
        let above_one_root = PAGE_SHIFT + INDEX_BITS * u32::from(regime.level);
        let roots = 1 << regime.address_bits.saturating_sub(above_one_root);
        let root = frames.allocate_run(roots, &NoWalks).expect("the host has memory");
        let gpa = GPA.get() & ((1 << regime.address_bits) - 1);
        let first = Pfn::new(root.get() + (gpa >> above_one_root));
        let below = (1..depth).map(|_| frames.allocate(&NoWalks).expect("the host has memory"));
        let tables = std::iter::once(first).chain(below);
        let entries: Vec<EntryAt> = (0..)
            .zip(tables)
            .map(|(step, table)| EntryAt { table, index: index(GPA, regime.level - step) })
            .collect();
        for pair in entries.windows(2) {
            pair[0].store(pair[1].table.address() | upper);
        }
        entries[usize::from(depth) - 1].store(leaf);
        Self { _frames: frames, root, regime, entries }
    }

    fn entry(&self, level: u8) -> EntryAt {
        self.entries[usize::from(self.regime.level - level)]
    }

    /// The part of [`GPA`] that the regime translates.
    fn gpa(&self) -> Gpa {
        Gpa::new(GPA.get() & ((1 << self.regime.address_bits) - 1))
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
        let (root, regime, gpa) = (self.root, self.regime, self.gpa());
        let request = Request { root, regime, gpa, access, bytes: 1, spp_root: None, epoch };
        walk::<W>(request, cache)
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

/// Whether the permissions of what was found refuse the access.
fn denied(result: Result<Translation, Violation>) -> bool {
    matches!(result, Err(Violation::Denied(_)))
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
        assert!(denied(tables.walk::<EptWalker>(Access::Write)));
        assert!(tables.walk::<EptWalker>(Access::Read).is_ok());
        let tables = npt();
        tables.clear(level, NPT_W);
        assert!(denied(tables.walk::<NptWalker>(Access::Write)));
        assert!(tables.walk::<NptWalker>(Access::Read).is_ok());
    }
}

#[test]
fn a_fetch_needs_execute_permission_at_every_level() {
    for level in 1..=4 {
        let tables = ept();
        tables.clear(level, 1 << 2);
        assert!(denied(tables.walk::<EptWalker>(Access::Execute)));
        assert!(tables.walk::<EptWalker>(Access::Write).is_ok());
        let tables = npt();
        tables.set(level, NPT_NX);
        assert!(denied(tables.walk::<NptWalker>(Access::Execute)));
        assert!(tables.walk::<NptWalker>(Access::Write).is_ok());
    }
}

#[test]
fn nested_accesses_are_user_accesses() {
    for level in 1..=4 {
        let tables = npt();
        tables.clear(level, NPT_US);
        assert!(denied(tables.walk::<NptWalker>(Access::Read)));
    }
}

#[test]
fn an_execute_only_entry_permits_fetches_alone() {
    let tables = ept();
    tables.clear(1, 0b011);
    assert!(tables.walk::<EptWalker>(Access::Execute).is_ok());
    assert!(denied(tables.walk::<EptWalker>(Access::Read)));
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
fn an_ept_walker_told_so_sets_neither_a_nor_d() {
    let regime = Regime { flags: AccessFlags::BySoftware, ..X86 };
    let tables = Tables::under(regime, 4, EPT_TABLE, PAGE | EPT_LEAF);
    let mut cache = WalkCache::new();
    for access in [Access::Read, Access::Write] {
        let found = tables.walk_in::<EptWalker>(access, EPOCH, &mut cache).expect("translated");
        assert_eq!(found.dirty, Dirty::Set, "a write need not walk again");
    }
    assert!((1..=4).all(|level| !tables.has(level, EPT_A)));
    assert!(!tables.has(1, EPT_D));
}

#[test]
fn an_x86_processor_is_told_four_levels_and_amds_sets_a_and_d() {
    let software = Regime { flags: AccessFlags::BySoftware, ..X86 };
    assert_eq!(EptWalker::accept(Regime { address_bits: 40, ..X86 }), Some(X86));
    assert_eq!(NptWalker::accept(Regime { address_bits: 40, ..X86 }), Some(X86));
    assert_eq!(EptWalker::accept(software), Some(software));
    assert_eq!(NptWalker::accept(software), None);
    assert_eq!(EptWalker::accept(Regime { level: 3, ..X86 }), None);
    assert_eq!(NptWalker::accept(Regime { level: 3, ..X86 }), None);
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
    assert_eq!(read.dirty, Dirty::Clear, "a write must walk to set D");
    tables.walk::<EptWalker>(Access::Write).expect("translated");
    let read = tables.walk::<EptWalker>(Access::Read).expect("translated");
    assert_eq!(read.dirty, Dirty::Set, "D is set already");
}

#[test]
fn marking_an_entry_that_changed_meanwhile_is_refused() {
    let tables = ept();
    let leaf = tables.entry(1);
    let before = leaf.load();
    tables.clear(1, EPT_W);
    assert!(!leaf.exchange(before, before | EPT_A | EPT_D));
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
    assert!(denied(write_behind_a_closed_root(&ept(), EPOCH + 1)));
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
    assert!(denied(after));
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
    const TABLE_ACCESSED: u64 = EptWalker::TABLE_ACCESSED;
    const DIRTY: u64 = EptWalker::DIRTY;
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = false;
    const AFTER_FAULT: AfterFault = EptWalker::AFTER_FAULT;
    const TWO_SIZES: TwoSizes = EptWalker::TWO_SIZES;

    fn accept(regime: Regime) -> Option<Regime> {
        EptWalker::accept(regime)
    }

    fn read(raw: u64, level: u8, flags: AccessFlags) -> Step {
        EptWalker::read(raw, level, flags)
    }
}

#[test]
fn a_cached_entry_carries_the_permissions_above_it() {
    let refused = write_by_entries_cached_under_a_closed_root::<EptWalker>();
    assert!(denied(refused));
    assert!(write_by_entries_cached_under_a_closed_root::<ForgetfulWalker>().is_ok());
}
