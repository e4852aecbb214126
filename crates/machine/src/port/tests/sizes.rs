//! Leaves that change their size behind the library's back, with and without a shoot-down.

use super::super::sizes::{LeafSizes, Sizes};
use super::{Each, byte, each_format, probe};
use crate::board::{Board, BoardConfig, PageSize};
use crate::bus::{Bus, BusError, Width};
use crate::frames;
use crate::port::Port;
use crate::walker::{Translation, TwoSizes, Walk, WalkedFormat};
use std::sync::atomic::Ordering;
use vellum_mmu::Access;
use vellum_pte::{Entry, Gate, Gfn, Gpa, Leaf, Level, PAGE_SIZE, Pfn, Raw, Write};

const BASE: u64 = 0x8000_0000;

fn page(number: u64) -> Gpa {
    Gpa::new(BASE + number * PAGE_SIZE)
}

/// A board of 4 GiB, none of it touched.
fn config(pages: PageSize) -> BoardConfig {
    let config = BoardConfig::with_memory(4 << 30).expect("in range");
    BoardConfig { pages, ..config }
}

fn load<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa) -> Result<u64, BusError> {
    port.load(at, Width::Byte)
}

/// Whether a shoot-down comes before the new entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Break {
    First,
    Forgotten,
}

fn leaf(frame: Pfn) -> Entry {
    Entry::Leaf(Leaf { accessed: true, ..Leaf::new(frame, Write::Storable) })
}

/// Puts a table of smaller leaves in the place of the leaf at `level`.
fn split<F: WalkedFormat>(board: &Board<F>, at: Gpa, level: Level) {
    let (tables, hub) = (probe(board), board.embedder().hub());
    let Entry::Leaf(whole) = F::decode(Raw(tables.read(at, level.get())), level) else {
        panic!("a leaf of {level:?} is there")
    };
    let child = board.embedder().frames().allocate(hub).expect("memory");
    let below = level.below().expect("a leaf is split into smaller ones");
    let pages = 1usize << (9 * u32::from(below.get() - 1));
    for (index, first) in (whole.frame.get()..).step_by(pages).take(512).enumerate() {
        let part = leaf(Pfn::new(first));
        let entry = frames::entry(child, index).expect("a frame");
        entry.store(F::encode(part, below).0, Ordering::Relaxed);
    }
    let table = F::encode(Entry::table(child, Gate::Open), level);
    tables.write(at, level.get(), table.0);
}

/// Puts one leaf in the place of the table that the entry at `level` points to.
fn join<F: WalkedFormat>(board: &Board<F>, at: Gpa, level: Level) {
    let tables = probe(board);
    let first = tables.read(Gpa::new(at.get() & !((1 << 21) - 1)), 1);
    let Entry::Leaf(part) = F::decode(Raw(first), Level::L1) else {
        panic!("the first page of the 2 MiB is mapped")
    };
    tables.write(at, level.get(), F::encode(leaf(part.frame), level).0);
}

fn expect<F: WalkedFormat>(found: Result<u64, BusError>, at: Gpa, order: Break) {
    let conflicts = F::Walker::TWO_SIZES == TwoSizes::Conflict && order == Break::Forgotten;
    let expected = if conflicts { Err(BusError::TlbConflict(at)) } else { Ok(0) };
    assert_eq!(found, expected, "{} {order:?}", F::NAME);
}

struct Splits {
    level: Level,
    /// Another page of the leaf.
    other: u64,
    order: Break,
}

impl Each for Splits {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let Self { level, other, order } = *self;
        let mut port = board.port().expect("memory");
        load(&mut port, page(0)).expect("RAM");
        if order == Break::First {
            board.embedder().hub().shoot_down();
        }
        split(board, page(0), level);
        assert!(load(&mut port, page(0)).is_ok(), "from the TLB, or anew");
        expect::<F>(load(&mut port, page(other)), page(other), order);
    }
}

#[test]
fn parts_of_a_leaf_that_is_cached_are_a_conflict_on_arm() {
    for order in [Break::First, Break::Forgotten] {
        for (pages, level, others) in [
            (PageSize::Huge2M, Level::L2, [1, 511]),
            (PageSize::Huge1G, Level::L3, [1, 511 * 512 + 3]),
        ] {
            for other in others {
                each_format(&config(pages), &Splits { level, other, order });
            }
        }
    }
}

struct Joins(Break);

impl Each for Joins {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let mut port = board.port().expect("memory");
        load(&mut port, page(0)).expect("RAM");
        if self.0 == Break::First {
            board.embedder().hub().shoot_down();
        }
        join(board, page(0), Level::L2);
        // Processors drop entries of the walk cache whenever they like.
        port.cache.clear();
        expect::<F>(load(&mut port, page(1)), page(1), self.0);
    }
}

#[test]
fn a_leaf_around_a_page_that_is_cached_is_a_conflict_on_arm() {
    for order in [Break::First, Break::Forgotten] {
        each_format(&config(PageSize::Small), &Joins(order));
    }
}

struct Overtaken;

impl Each for Overtaken {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let mut port = board.port().expect("memory");
        let (epoch, found) = port.look_up(byte(page(0), Access::Read));
        assert!(found.is_err(), "nothing is mapped");
        load(&mut port, page(0)).expect("RAM");
        let (epoch_now, found) = port.look_up(byte(page(0), Access::Read));
        let whole = found.expect("mapped");
        assert_eq!(epoch_now, epoch);
        port.check_size(page(0), (epoch, Ok(whole))).expect("the same size");
        board.embedder().hub().shoot_down();
        // A walk that began before the shoot-down and met what was made after it.
        let part = Translation { level: 1, ..whole };
        port.check_size(page(1), (epoch, Ok(part))).expect("not cached any more");
    }
}

#[test]
fn a_walk_that_a_shoot_down_overtook_finds_no_conflict() {
    each_format(&config(PageSize::Huge2M), &Overtaken);
}

#[test]
fn sizes_agree_within_an_epoch_or_differ() {
    let mut sizes = LeafSizes::new();
    let page = Gfn::new(5 << 18 | 7 << 9 | 3);
    let neighbour = Gfn::new(5 << 18 | 7 << 9 | 4);
    let in_same_gib = Gfn::new(5 << 18 | 8 << 9);
    let elsewhere = Gfn::new(6 << 18);
    assert_eq!(sizes.found(page, 1, 1), Sizes::Agree);
    assert_eq!(sizes.found(neighbour, 1, 1), Sizes::Agree);
    assert_eq!(sizes.found(in_same_gib, 1, 2), Sizes::Agree, "2 MiB beside 4 KiB");
    assert_eq!(sizes.found(elsewhere, 1, 3), Sizes::Agree);
    assert_eq!(sizes.found(neighbour, 1, 2), Sizes::Differ, "4 KiB, then 2 MiB");
    assert_eq!(sizes.found(neighbour, 2, 1), Sizes::Agree, "another epoch");
    assert_eq!(sizes.found(in_same_gib, 2, 3), Sizes::Differ, "4 KiB, then 1 GiB around it");
    assert_eq!(sizes.found(elsewhere, 1, 3), Sizes::Agree);
    assert_eq!(sizes.found(elsewhere, 1, 2), Sizes::Differ, "1 GiB, then 2 MiB");
    sizes.clear();
    assert_eq!(sizes.found(elsewhere, 1, 1), Sizes::Agree, "another space");
}
