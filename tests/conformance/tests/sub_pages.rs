//! What others got wrong about sub-page permissions, each a test by its name, on each format, by tables
//! and by emulation, over small and huge leaves.

use vellum_machine::board::{Board, BoardConfig, PageSize, SubPageHardware};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::port::Port;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::Region;
use vellum_memory::guest::PAGE_BYTES;
use vellum_mmu::*;
use vellum_pte::{
    AddressSpace, Ept, Gfn, GfnRange, Gpa, Npt, PAGE_SIZE, SlotId, Stage2, SubPageEvent, SubPageMap,
};

const SPACE: AddressSpace = AddressSpace::NORMAL;
/// First page and pages of each slot: neighbours, and nothing aligned. The second has room for two huge
/// leaves, from 1536 and from 2048.
const SLOTS: [(u64, u64); 3] = [(1001, 100), (1101, 1700), (2801, 65)];
const FIRST: u64 = SLOTS[0].0;
const END: u64 = SLOTS[2].0 + SLOTS[2].1;

fn board<F: WalkedFormat>(pages: PageSize, sub_pages: SubPageHardware) -> Board<F> {
    let region = |(slot, (first, pages))| {
        let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
        Region { slot: SlotId(slot), space: SPACE, range }
    };
    let config = BoardConfig::with_regions((0..).zip(SLOTS).map(region).collect());
    Board::new(&BoardConfig { pages, sub_pages, ..config }).expect("the host has memory")
}

/// Holds a law to a port over a board, all of whose memory the port has stored to before sub-pages
/// were activated: its TLB holds as much as it can of what maps are about to forbid.
fn on_a_board<F: WalkedFormat>(law: fn(&Board<F>, &mut Port<'_, F>)) {
    for pages in [PageSize::Small, PageSize::Huge2M] {
        for hardware in [SubPageHardware::Absent, SubPageHardware::Present] {
            let board = board::<F>(pages, hardware);
            let mut port = board.port().expect("memory");
            (FIRST..END).for_each(|page| put(&mut port, at(page, 0)).expect("RAM"));
            board.mmu().activate_sub_pages().expect("memory");
            law(&board, &mut port);
        }
    }
}

macro_rules! everywhere {
    ($law:ident) => {
        on_a_board::<Ept>($law);
        on_a_board::<Npt>($law);
        on_a_board::<Stage2>($law);
    };
}

fn at(page: u64, offset: u64) -> Gpa {
    Gpa::new(Gfn::new(page).gpa().get() + offset)
}

/// A store of a byte, emulated if it must be.
fn put<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa) -> Result<(), BusError> {
    store(port, at, Width::Byte)
}

fn store<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa, width: Width) -> Result<(), BusError> {
    let by = EmulatedStore { hart: 0, pc: Gpa::new(0) };
    match port.store(at, width, 0x55) {
        Err(BusError::Emulate(_)) => port.emulate_store(by, at, width, 0x55),
        other => other,
    }
}

fn set<F: WalkedFormat>(board: &Board<F>, first: u64, maps: &[SubPageMap]) {
    let range = SubPageRange::new(SPACE, Gfn::new(first));
    assert_eq!(board.mmu().set_sub_pages(range, maps), Ok(maps.len()));
}

fn maps<F: WalkedFormat>(board: &Board<F>, first: u64, count: usize) -> Vec<SubPageMap> {
    let mut maps = vec![SubPageMap::NONE; count];
    let range = SubPageRange::new(SPACE, Gfn::new(first));
    assert_eq!(board.mmu().sub_pages(range, &mut maps), Ok(count));
    maps
}

/// Two sub-pages denied, and no other page within a thousand has the same map.
fn map_of(page: u64) -> SubPageMap {
    SubPageMap::new(!(1 << (page % 32)) & !(1 << (page / 32 % 32)))
}

/// Stores to the last byte of each sub-page, and holds it to the page's map.
fn holds<F: WalkedFormat>(port: &mut Port<'_, F>, page: u64, map: SubPageMap) {
    for sub_page in 0..32 {
        let gpa = at(page, sub_page * 128 + 127);
        let permitted = map.bits() >> sub_page & 1 == 1;
        let expected = if permitted { Ok(()) } else { Err(BusError::Denied(Denial { gpa, map })) };
        assert_eq!(put(port, gpa), expected, "{} page {page} sub-page {sub_page}", F::NAME);
    }
}

/// The lists begin before a huge leaf, in one, and in the last, and end in the next, and in another
/// slot.
fn in_step<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    for (first, count) in [(1400, 400), (1800, 512), (2312, 300), (2612, END - 2612)] {
        let list: Vec<_> = (first..first + count).map(map_of).collect();
        set(board, first, &list);
        assert_eq!(maps(board, first, list.len()), list);
        (first..first + count).for_each(|page| holds(port, page, map_of(page)));
    }
    (FIRST..1400).for_each(|page| holds(port, page, SubPageMap::ALL));
}

#[test]
fn a_huge_leaf_that_is_passed_over_leaves_the_list_in_step() {
    everywhere!(in_step);
}

fn border_pages<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    for border in [1536, 2048, 2560] {
        let list = [map_of(border - 1), map_of(border), map_of(border + 1)];
        set(board, border - 1, &list);
        (border - 1..border + 2).for_each(|page| holds(port, page, map_of(page)));
        holds(port, border - 2, SubPageMap::ALL);
        holds(port, border + 2, SubPageMap::ALL);
    }
}

#[test]
fn the_page_after_a_huge_leaf_is_not_skipped() {
    everywhere!(border_pages);
}

fn every_slot<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    for border in [SLOTS[1].0, SLOTS[2].0] {
        set(board, border - 8, &[SubPageMap::NONE; 16]);
        // The last first: a fault on one page must not be what shoots the others down.
        for page in (border - 8..border + 8).rev() {
            let denial = Denial { gpa: at(page, 0), map: SubPageMap::NONE };
            assert_eq!(port.store(denial.gpa, Width::Byte, 1), Err(BusError::Denied(denial)));
        }
    }
}

#[test]
fn the_mappings_of_every_slot_are_shot_down_and_not_only_the_firsts() {
    everywhere!(every_slot);
}

/// What was denied before stays so, and what was permitted too.
fn refused_list<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    set(board, END - 4, &[map_of(0); 2]);
    let range = SubPageRange::new(SPACE, Gfn::new(END - 6));
    let result = board.mmu().set_sub_pages(range, &[SubPageMap::NONE; 7]);
    assert_eq!(result, Err(SubPageError::NoSlot(Gfn::new(END))));
    let (free, kept) = (SubPageMap::ALL, map_of(0));
    for (page, map) in (END - 6..END).zip([free, free, kept, kept, free, free]) {
        holds(port, page, map);
    }
    assert_eq!(maps(board, END - 6, 6), [free, free, kept, kept, free, free]);
}

#[test]
fn an_error_return_changes_no_page_of_the_list() {
    everywhere!(refused_list);
}

/// Each width at each distance from a denied sub-page, by a vCPU and by a writer.
fn exclusive_ends<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let page = 1300;
    for denied in [0, 1, 7, 31] {
        let map = SubPageMap::new(!(1 << denied));
        set(board, page, &[map]);
        let (start, end) = (at(page, 128 * denied).get(), at(page, 128 * denied).get() + 128);
        for width in [Width::Byte, Width::Half, Width::Word, Width::Double] {
            let length = width.bytes();
            for first in (start - 9..start + 2).chain(end - 9..end + 2) {
                let touches = first < end && first + length > start;
                let denial = Denial { gpa: Gpa::new(first.max(start)), map };
                let (by_vcpu, by_writer) = if touches {
                    (Err(BusError::Denied(denial)), Err(WriteError::Denied(denial)))
                } else {
                    (Ok(()), Ok(()))
                };
                let gpa = Gpa::new(first);
                assert_eq!(store(port, gpa, width), by_vcpu, "{gpa} {width:?} {denied}");
                let bytes = &[1; 8][..usize::try_from(length).expect("small")];
                let writer = board.mmu().guest_writer(Origin::Device);
                assert_eq!(writer.write(SPACE, gpa, bytes), by_writer, "{gpa} {width:?} {denied}");
            }
        }
    }
}

#[test]
fn the_end_of_a_write_is_exclusive() {
    everywhere!(exclusive_ends);
}

fn whole_pages<F: WalkedFormat>(board: &Board<F>, _: &mut Port<'_, F>) {
    let none = [SubPageMap::NONE];
    set(board, 1299, &none);
    set(board, 1302, &none);
    let writer = board.mmu().guest_writer(Origin::Device);
    let bytes = [7; 2 * PAGE_BYTES + 1];
    let two_pages = &bytes[..2 * PAGE_BYTES];
    writer.write(SPACE, at(1300, 0), two_pages).expect("exactly what is between");
    let denied = |page, offset| {
        Err(WriteError::Denied(Denial { gpa: at(page, offset), map: SubPageMap::NONE }))
    };
    assert_eq!(writer.write(SPACE, at(1300, 0), &bytes), denied(1302, 0));
    assert_eq!(
        writer.write(SPACE, at(1299, PAGE_SIZE - 1), two_pages),
        denied(1299, PAGE_SIZE - 1)
    );
}

#[test]
fn a_write_that_ends_with_a_page_does_not_touch_the_next() {
    everywhere!(whole_pages);
}

/// It shows the second slot's memory once more, elsewhere.
fn later_slots<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let range = GfnRange::new(Gfn::new(5000), 100).expect("in range");
    let (id, memory) = (SlotId(9), MemoryId(SLOTS[1].0));
    let spec = SlotSpec { memory, ..SlotSpec::new(id, SPACE, range) };
    board.mmu().create_slot(spec).expect("the place is free");
    assert_eq!(maps(board, 5000, 100), [SubPageMap::ALL; 100]);
    holds(port, 5003, SubPageMap::ALL);
    set(board, 5003, &[map_of(3), map_of(4)]);
    holds(port, 5003, map_of(3));
    holds(port, 5004, map_of(4));
    holds(port, SLOTS[1].0 + 3, SubPageMap::ALL);
    holds(&mut board.port().expect("memory"), 5003, map_of(3));
}

#[test]
fn a_slot_that_comes_after_the_activation_has_maps_too() {
    everywhere!(later_slots);
}

fn moving_slots<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let mmu = board.mmu();
    let place = |first| GfnRange::new(Gfn::new(first), SLOTS[1].1).expect("in range");
    let here = SlotSpec::new(SlotId(1), SPACE, place(SLOTS[1].0));
    set(board, 1600, &[map_of(1); 3]);
    holds(port, 1601, map_of(1));
    // The first page there was restricted too, in tables that the move must bring up to date.
    let there = SlotSpec { range: place(5101), ..here };
    mmu.change_slot(there).expect("the place is free");
    assert_eq!(put(port, at(1601, 0)), Err(BusError::Unmapped(at(1601, 0))));
    (5600..5603).for_each(|page| holds(port, page, map_of(1)));
    holds(port, 5603, SubPageMap::ALL);
    mmu.change_slot(SlotSpec { range: place(3101), ..there }).expect("the place is free");
    (3600..3603).for_each(|page| holds(port, page, map_of(1)));
    mmu.delete_slot(SlotId(1)).expect("it is there");
    mmu.create_slot(here).expect("the place is free");
    assert_eq!(maps(board, 1600, 3), [SubPageMap::ALL; 3], "another slot of the same name");
    (1600..1603).for_each(|page| holds(port, page, SubPageMap::ALL));
}

#[test]
fn maps_go_along_when_a_slot_moves_and_go_with_it() {
    everywhere!(moving_slots);
}

/// The processor's tables are there already where the slot comes to, for its new neighbour's sake. They
/// must say at once what they did not: a store that the map permits is then the processor's own.
#[test]
fn tables_that_are_there_learn_of_a_slot_that_comes_with_its_maps() {
    let board = board::<Ept>(PageSize::Small, SubPageHardware::Present);
    board.mmu().activate_sub_pages().expect("memory");
    let mut port = board.port().expect("memory");
    let map = SubPageMap::new(!1);
    set(&board, END - 1, &[map]);
    assert_eq!(port.store(at(END - 1, 128), Width::Byte, 1), Ok(()), "which makes the tables");
    set(&board, SLOTS[1].0, &[map; 2]);
    let place = |first| GfnRange::new(Gfn::new(first), SLOTS[1].1).expect("in range");
    let here = SlotSpec::new(SlotId(1), SPACE, place(SLOTS[1].0));
    assert_eq!(END / 512, (END + 1) / 512, "one table for both");
    board.mmu().change_slot(SlotSpec { range: place(END), ..here }).expect("the place is free");
    let mut direct = |page, offset| port.store(at(page, offset), Width::Byte, 1);
    for page in [END, END + 1] {
        let denial = Denial { gpa: at(page, 0), map };
        assert_eq!(direct(page, 0), Err(BusError::Denied(denial)));
        assert_eq!(direct(page, 128), Ok(()));
    }
    assert_eq!([direct(END + 2, 0), direct(END - 1, 128)], [Ok(()); 2]);
}

fn nothing_to_restrict<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let before = board.mmu().counters();
    set(board, 1536, &[SubPageMap::ALL; 512]);
    (1536..2048).for_each(|page| holds(port, page, SubPageMap::ALL));
    let since = |event| board.mmu().counters().since(&before, event);
    // The TLB is smaller than the memory, so there are walks; but the tables have all they had.
    assert_eq!([Event::Mapped, Event::Opened, Event::ShootDown].map(since), [0; 3]);
}

#[test]
fn a_huge_leaf_stays_where_all_of_it_may_be_written() {
    everywhere!(nothing_to_restrict);
}

fn huge_again<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let leaves = u64::from(has_huge_leaves(board));
    set(board, 1600, &[map_of(0)]);
    (1536..2048).for_each(|page| put(port, at(page, 4095)).expect("permitted"));
    assert_eq!(board.mmu().recover_huge(SlotId(1)), Ok(0), "a page is restricted");
    set(board, 1600, &[SubPageMap::ALL]);
    holds(port, 1600, SubPageMap::ALL);
    assert_eq!(board.mmu().recover_huge(SlotId(1)), Ok(leaves));
    holds(port, 1600, SubPageMap::ALL);
}

/// Whether fewer leaves than pages were mapped.
fn has_huge_leaves<F: WalkedFormat>(board: &Board<F>) -> bool {
    let snapshot = board.mmu().counters();
    snapshot.since(&CounterSnapshot::default(), Event::Mapped) < END - FIRST
}

#[test]
fn a_huge_leaf_comes_back_after_its_last_map() {
    everywhere!(huge_again);
}

#[test]
fn maps_may_be_set_before_there_is_any_vcpu() {
    for hardware in [SubPageHardware::Absent, SubPageHardware::Present] {
        let board = board::<Ept>(PageSize::Huge2M, hardware);
        board.mmu().activate_sub_pages().expect("memory");
        set(&board, 1500, &[map_of(1500); 100]);
        holds(&mut board.port().expect("memory"), 1599, map_of(1500));
    }
}

/// Intel SDM vol. 3C, 29.3.4.1: only writes of instructions are.
#[test]
fn a_walk_of_the_guests_own_tables_is_not_eligible() {
    let board = board::<Ept>(PageSize::Small, SubPageHardware::Present);
    board.mmu().activate_sub_pages().expect("memory");
    set(&board, 1500, &[SubPageMap::new(!1)]);
    let mut vcpu = board.mmu().vcpu().expect("memory");
    let denial = Denial { gpa: at(1500, 8), map: SubPageMap::new(!1) };
    for _ in 0..2 {
        assert_eq!(vcpu.fault(SPACE, at(1500, 256), Access::Walk), Outcome::Emulate);
        assert_eq!(vcpu.fault(SPACE, denial.gpa, Access::Walk), Outcome::Denied(denial));
        let written = vcpu.fault(SPACE, at(1500, 256), Access::Write);
        assert!(matches!(written, Outcome::Mapped | Outcome::Emulate), "{written:?}");
    }
}

#[test]
fn a_miss_where_no_slot_is_and_a_broken_table_are_told_apart() {
    let board = board::<Ept>(PageSize::Small, SubPageHardware::Present);
    let mut vcpu = board.mmu().vcpu().expect("memory");
    let (miss, broken) = (SubPageEvent::Miss, SubPageEvent::Misconfiguration);
    assert_eq!(vcpu.sub_page_event(SPACE, at(1500, 0), miss), Outcome::Spurious, "inactive");
    board.mmu().activate_sub_pages().expect("memory");
    assert_eq!(vcpu.sub_page_event(SPACE, at(END, 0), miss), Outcome::Mmio);
    assert_eq!(vcpu.sub_page_event(AddressSpace::SMM, at(1500, 0), miss), Outcome::Spurious);
    let no_leaf = vcpu.sub_page_event(SPACE, at(1500, 0), miss);
    assert_eq!(no_leaf, Outcome::Spurious, "the access faults first");
    assert_eq!(vcpu.fault(SPACE, at(1500, 0), Access::Read), Outcome::Mapped);
    assert_eq!(vcpu.sub_page_event(SPACE, at(1500, 0), miss), Outcome::Mapped);
    assert_eq!(vcpu.sub_page_event(SPACE, at(1500, 0), broken), Outcome::Misconfigured);
}
