//! Sub-page permissions under ports: by the processor's tables, and by emulation on every format.

#[macro_use]
mod storm;
#[macro_use]
mod forms;

use forms::{activated, active, by_tables, restrict, restrict_all, restrict_in};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use storm::{BASE, BY, PAGES, TRACKS, at, lost_pages_of, rounds, store, ways, while_storing};
use vellum_machine::board::{Board, BoardConfig, PageSize, SubPageHardware};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::{AccessFlags, WalkedFormat};
use vellum_memory::{DirtySource, PageSet, Region};
use vellum_mmu::{Denial, SubPageRange};
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, PAGE_SIZE, SlotId, Stage2, SubPageMap};

const SUB_PAGE: u64 = 128;

fn board<F: WalkedFormat>(hardware: SubPageHardware) -> Board<F> {
    active(hardware, ShootDown::best())
}

fn put<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa, value: u64) -> Result<(), BusError> {
    store(port, at, Width::Double, value)
}

fn get<F: WalkedFormat>(port: &mut Port<'_, F>, at: Gpa) -> u64 {
    port.load(at, Width::Double).expect("nobody forbids loads")
}

fn denied(at: Gpa, bits: u32) -> Result<(), BusError> {
    Err(BusError::Denied(Denial { gpa: at, map: SubPageMap::new(bits) }))
}

fn each_sub_page_has_its_own_permission<F: WalkedFormat>(hardware: SubPageHardware) {
    let board = board::<F>(hardware);
    let mut port = board.port().expect("memory");
    let bits = 0x8000_0a05;
    restrict(&board, 3, bits);
    for sub_page in 0..32 {
        let here = at(3, sub_page * SUB_PAGE + 120);
        let expected = if bits >> sub_page & 1 != 0 { Ok(()) } else { denied(here, bits) };
        assert_eq!(put(&mut port, here, 7), expected, "{} {sub_page}", F::NAME);
        assert_eq!(get(&mut port, here), if expected.is_ok() { 7 } else { 0 });
    }
    assert_eq!(put(&mut port, at(2, 0), 7), Ok(()), "its neighbours have none");
    assert_eq!(put(&mut port, at(4, 0), 7), Ok(()));
}

#[test]
fn a_store_passes_where_its_sub_page_permits_it() {
    on_each_form!(each_sub_page_has_its_own_permission());
}

fn who_stores<F: WalkedFormat>(hardware: SubPageHardware) {
    let board = board::<F>(hardware);
    let mut port = board.port().expect("memory");
    restrict(&board, 3, 1);
    let mut store = |value| port.store(at(3, 8), Width::Double, value);
    let expected = if by_tables(&board) { Ok(()) } else { Err(BusError::Emulate(at(3, 8))) };
    assert_eq!((store(1), store(2)), (expected, expected), "{} {hardware:?}", F::NAME);
    let exchanged = port.compare_exchange(at(3, 16), Width::Word, 0, 5);
    assert_eq!(exchanged.is_ok(), by_tables(&board));
}

#[test]
fn a_processor_with_tables_stores_itself_and_others_are_emulated() {
    on_each_form!(who_stores());
}

fn straddles<F: WalkedFormat>(hardware: SubPageHardware) {
    let board = board::<F>(hardware);
    let mut port = board.port().expect("memory");
    restrict(&board, 5, 0b1101);
    let across = |sub_page: u64| at(5, sub_page * SUB_PAGE - 4);
    let (lower_denied, upper_denied) = (across(2), across(1));
    assert_eq!(put(&mut port, lower_denied, u64::MAX), denied(lower_denied, 0b1101));
    let first_denied = at(5, SUB_PAGE);
    assert_eq!(put(&mut port, upper_denied, u64::MAX), denied(first_denied, 0b1101));
    assert_eq!((get(&mut port, lower_denied), get(&mut port, upper_denied)), (0, 0));
    assert_eq!(put(&mut port, across(3), u64::MAX), Ok(()), "{}: both permit it", F::NAME);
    assert_eq!(get(&mut port, across(3)), u64::MAX);
}

#[test]
fn a_store_over_two_sub_pages_needs_both_and_is_whole_or_not_at_all() {
    on_each_form!(straddles());
}

fn crosses_pages<F: WalkedFormat>(hardware: SubPageHardware) {
    let board = board::<F>(hardware);
    let mut port = board.port().expect("memory");
    let across = at(6, PAGE_SIZE - 4);
    for (lower, upper, expected) in [
        (1 << 31, 1, Ok(())),
        (1 << 31, 2, denied(at(7, 0), 2)),
        (1 << 30, 1, denied(across, 1 << 30)),
        (u32::MAX, 2, denied(at(7, 0), 2)),
        (1 << 30, u32::MAX, denied(across, 1 << 30)),
        (1 << 31, u32::MAX, Ok(())),
        (u32::MAX, 1, Ok(())),
    ] {
        for page in [6, 7] {
            restrict(&board, page, u32::MAX);
        }
        put(&mut port, across, 0).expect("nothing is restricted");
        restrict(&board, 6, lower);
        restrict(&board, 7, upper);
        assert_eq!(put(&mut port, across, u64::MAX), expected, "{} {lower:#x} {upper:#x}", F::NAME);
        let after = if expected.is_ok() { u64::MAX } else { 0 };
        assert_eq!(get(&mut port, across), after, "whole or not at all");
    }
}

#[test]
fn a_store_over_two_pages_that_one_denies_changes_neither() {
    on_each_form!(crosses_pages());
}

fn opened_after_a_denial<F: WalkedFormat>(hardware: SubPageHardware) {
    let board = board::<F>(hardware);
    let mut port = board.port().expect("memory");
    put(&mut port, at(3, 8), 1).expect("nothing is restricted");
    for bits in [0, 2, 0] {
        restrict(&board, 3, bits);
        assert_eq!(put(&mut port, at(3, 8), 9), denied(at(3, 8), bits), "{}", F::NAME);
        assert_eq!(get(&mut port, at(3, 8)), 1, "nothing of it happened");
    }
    restrict(&board, 3, 1);
    assert_eq!(put(&mut port, at(3, 8), 2), Ok(()), "{}: the same store", F::NAME);
    restrict(&board, 3, 0);
    assert_eq!(put(&mut port, at(3, 8), 3), denied(at(3, 8), 0));
    restrict(&board, 3, u32::MAX);
    assert_eq!(port.store(at(3, 8), Width::Double, 3), Ok(()), "nothing is restricted any more");
    assert_eq!(get(&mut port, at(3, 8)), 3);
}

#[test]
fn a_denied_store_succeeds_once_its_map_permits_it() {
    on_each_form!(opened_after_a_denial());
}

fn atomics<F: WalkedFormat>(hardware: SubPageHardware) {
    let board = board::<F>(hardware);
    let mut port = board.port().expect("memory");
    restrict(&board, 3, 1);
    let mut exchange = |at, width, exchange: (u64, u64)| match port
        .compare_exchange(at, width, exchange.0, exchange.1)
    {
        Err(BusError::Emulate(_)) => port.emulate_compare_exchange(BY, at, width, exchange),
        other => other,
    };
    for (offset, width) in [(8, Width::Word), (12, Width::Word), (16, Width::Double)] {
        assert_eq!(exchange(at(3, offset), width, (0, 0x9000_0001)), Ok(0), "{}", F::NAME);
        assert_eq!(exchange(at(3, offset), width, (5, 6)), Ok(0x9000_0001), "refused");
        assert_eq!(exchange(at(3, offset), width, (0x9000_0001, 7)), Ok(0x9000_0001));
        let there = at(3, SUB_PAGE + offset);
        let refused = denied(there, 1).map(|()| 0);
        assert_eq!(exchange(there, width, (0, 1)), refused);
        assert_eq!(exchange(there, width, (1, 1)), refused, "one that fails needs permission too");
    }
    assert_eq!(get(&mut port, at(3, 8)), 7 << 32 | 7);
    assert_eq!(get(&mut port, at(3, 16)), 7);
}

#[test]
fn an_atomic_asks_for_its_sub_page_as_a_store_does() {
    on_each_form!(atomics());
}

fn logged_once<F: WalkedFormat>(hardware: SubPageHardware, track: Track) {
    let board = board::<F>(hardware);
    let mut port = board.port().expect("memory");
    restrict(&board, 3, 1);
    put(&mut port, at(3, 0), 1).expect("permitted");
    let mut log = BoardLog::new(&board, track);
    log.start().expect("memory");
    for round in 0..3 {
        put(&mut port, at(3, 8), round).expect("permitted");
        put(&mut port, at(3, 16), round).expect("permitted");
        assert!(put(&mut port, at(4, 0), 1).is_ok());
        restrict(&board, 5, 1);
        assert_eq!(put(&mut port, at(5, SUB_PAGE), 1), denied(at(5, SUB_PAGE), 1));
        let mut dirty = PageSet::new(log.layout());
        log.collect(&mut dirty).expect("the log is on");
        log.protect(0, log.layout().regions()[0].range, &mut dirty).expect("the log is on");
        let pages: Vec<u64> = dirty.regions()[0].pages().collect();
        assert_eq!(pages, [3, 4], "{} {track:?}: a denied store is none", F::NAME);
    }
}

#[test]
fn a_permitted_store_is_logged_once_a_harvest() {
    for track in TRACKS {
        on_each_form!(logged_once(track));
    }
}

fn huge_leaf<F: WalkedFormat>(hardware: SubPageHardware, pages: PageSize) {
    let config = BoardConfig::with_memory(2 << 30).expect("in range");
    let board: Board<F> = activated(&BoardConfig { pages, sub_pages: hardware, ..config });
    let mut port = board.port().expect("memory");
    for page in [0, 3, 4, 511] {
        put(&mut port, at(page, 0), 1).expect("nothing is restricted");
    }
    restrict(&board, 3, 2);
    assert_eq!(put(&mut port, at(3, 0), 2), denied(at(3, 0), 2), "{} {pages:?}", F::NAME);
    assert_eq!(put(&mut port, at(3, SUB_PAGE), 2), Ok(()));
    for page in [0, 4, 511, 512] {
        assert_eq!(port.store(at(page, 0), Width::Double, 2), Ok(()), "of the same leaf");
    }
    assert_eq!(get(&mut port, at(3, 0)), 1);
    restrict(&board, 3, u32::MAX);
    assert_eq!(put(&mut port, at(3, 0), 3), Ok(()));
}

#[test]
fn a_map_under_a_huge_leaf_holds_for_its_page_alone() {
    for pages in [PageSize::Huge2M, PageSize::Huge1G] {
        on_each_form!(huge_leaf(pages));
    }
}

fn spaces<F: WalkedFormat>(hardware: SubPageHardware) {
    let both = [AddressSpace::NORMAL, AddressSpace::SMM];
    let range = GfnRange::new(Gfn::new(16), 64).expect("in range");
    let regions = (0..).zip(both).map(|(slot, space)| Region { slot: SlotId(slot), space, range });
    let config = BoardConfig::with_regions(regions.collect());
    let board: Board<F> = activated(&BoardConfig { sub_pages: hardware, ..config });
    let here = Gfn::new(20).gpa();
    restrict_in(&board, AddressSpace::SMM, here.gfn(), 2);
    let mut port = board.port().expect("memory");
    for _ in 0..3 {
        port.enter_space(AddressSpace::NORMAL).expect("there are two");
        assert_eq!(port.store(here, Width::Double, 1), Ok(()), "{}: another's map", F::NAME);
        port.enter_space(AddressSpace::SMM).expect("there are two");
        assert_eq!(put(&mut port, here, 2), denied(here, 2), "{}", F::NAME);
        assert_eq!(put(&mut port, Gpa::new(here.get() + SUB_PAGE), 2), Ok(()));
    }
    restrict_in(&board, AddressSpace::NORMAL, here.gfn(), 1);
    restrict_in(&board, AddressSpace::SMM, here.gfn(), u32::MAX);
    assert_eq!(put(&mut port, here, 2), Ok(()));
    port.enter_space(AddressSpace::NORMAL).expect("there are two");
    let beside = Gpa::new(here.get() + SUB_PAGE);
    assert_eq!(put(&mut port, beside, 2), denied(beside, 1));
}

#[test]
fn a_map_belongs_to_one_address_space() {
    on_each_form!(spaces());
}

fn activated_late<F: WalkedFormat>(hardware: SubPageHardware) {
    let config = storm::config(ShootDown::best());
    let config = BoardConfig { sub_pages: hardware, ..config };
    let board = Board::<F>::new(&config).expect("the host has memory");
    let mut before = board.port().expect("memory");
    put(&mut before, at(3, 0), 1).expect("nothing is restricted");
    board.mmu().activate_sub_pages().expect("memory");
    restrict(&board, 3, 1);
    let mut after = board.port().expect("memory");
    for port in [&mut before, &mut after] {
        assert_eq!(put(port, at(3, 0), 2), Ok(()), "{} {hardware:?}", F::NAME);
        assert_eq!(put(port, at(3, SUB_PAGE), 2), denied(at(3, SUB_PAGE), 1));
        // The exit above was the last before SPPTP: from here on the processor stores itself.
        let direct = port.store(at(3, 0), Width::Double, 3);
        assert_eq!(direct.is_ok(), by_tables(&board), "{} {hardware:?}", F::NAME);
    }
}

#[test]
fn vcpus_made_before_and_after_the_activation_are_covered() {
    on_each_form!(activated_late());
}

/// Maps with a sub-page that is permitted hold the log's promise too.
fn storm_in_permitted_sub_pages<F: WalkedFormat>(
    hardware: SubPageHardware,
    way: ShootDown,
    track: Track,
) {
    let board: Board<F> = active(hardware, way);
    restrict_all(&board, 1);
    let lost = lost_pages_of(&board, track, rounds(way));
    assert!(lost.is_empty(), "{} {hardware:?} {way:?} {track:?}: {lost:?}", F::NAME);
}

#[test]
fn a_storm_in_permitted_sub_pages_loses_no_page() {
    for (way, track) in ways().into_iter().flat_map(|way| TRACKS.map(|track| (way, track))) {
        on_each_form!(storm_in_permitted_sub_pages(way, track));
    }
}

#[test]
fn a_storm_in_permitted_sub_pages_without_a_and_d_loses_no_page() {
    for track in TRACKS {
        let flags = AccessFlags::BySoftware;
        let config = BoardConfig { flags, ..storm::config(ShootDown::best()) };
        let boards = (activated::<Ept>(&config), activated::<Stage2>(&config));
        restrict_all(&boards.0, 1);
        restrict_all(&boards.1, 1);
        assert!(lost_pages_of(&boards.0, track, 40).is_empty(), "{track:?}");
        assert!(lost_pages_of(&boards.1, track, 40).is_empty(), "{track:?}");
    }
}

/// The storm finds a library that forgets its shoot-down, or leaves the tables open.
#[cfg(feature = "breaks")]
#[test]
fn the_storm_in_permitted_sub_pages_finds_mistakes_of_write_protect_all() {
    use vellum_mmu::Break::{OpenOverLeaves, OpenSubPageRoot, SkipFlush};
    for broken in [SkipFlush, OpenSubPageRoot, OpenOverLeaves] {
        let config = BoardConfig { broken: Some(broken), ..storm::config(ShootDown::best()) };
        let found = (0..20).any(|_| {
            let board: Board<Ept> = activated(&config);
            restrict_all(&board, 1);
            !lost_pages_of(&board, Track::ProtectAll, 100).is_empty()
        });
        assert!(found, "{broken:?}");
    }
}

/// Maps change under stores that they permit all the while.
fn maps_change<F: WalkedFormat>(hardware: SubPageHardware, way: ShootDown) {
    let board: Board<F> = active(hardware, way);
    let missed = while_storing(&board, |wait| {
        for round in 0..rounds(way) / 4 {
            restrict_all(&board, [1, 3, u32::MAX, 0x8000_0001][round % 4]);
            wait();
            board.mmu().write_protect_all();
            wait();
        }
    });
    assert_eq!(missed, 0, "{} {hardware:?} {way:?}", F::NAME);
}

#[test]
fn changing_maps_lose_no_store_that_all_of_them_permit() {
    for way in ways() {
        on_each_form!(maps_change(way));
    }
}

/// How often something was stored to a sub-page after a map had denied it. One vCPU stores to it
/// without end.
fn late_stores<F: WalkedFormat>(board: &Board<F>, rounds: usize) -> usize {
    let (over, stores) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut port = board.port().expect("memory");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = board.port().expect("memory");
            while !over.load(Ordering::Relaxed) {
                let count = stores.load(Ordering::Relaxed) + 1;
                match put(&mut port, at(3, 8), count) {
                    Ok(()) => stores.store(count, Ordering::Relaxed),
                    Err(BusError::Denied(_)) => std::thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let late = (0..rounds).filter(|_| is_late(board, &mut port, &stores)).count();
        over.store(true, Ordering::Relaxed);
        late
    })
}

/// Opens the map, lets it store, denies it, stores beside it where the map permits that, and looks
/// on.
fn is_late<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>, stores: &AtomicU64) -> bool {
    restrict(board, 3, 1);
    let before = stores.load(Ordering::Relaxed);
    while stores.load(Ordering::Relaxed) < before + 3 {
        std::thread::yield_now();
    }
    restrict(board, 3, 2);
    put(port, at(3, SUB_PAGE), 1).expect("permitted");
    let seen = get(port, at(3, 8));
    (0..2_000).any(|_| get(port, at(3, 8)) != seen)
}

fn nothing_late<F: WalkedFormat>(hardware: SubPageHardware, way: ShootDown) {
    let board: Board<F> = active(hardware, way);
    assert_eq!(late_stores(&board, rounds(way)), 0, "{} {hardware:?} {way:?}", F::NAME);
}

#[test]
fn no_store_reaches_a_sub_page_after_its_map_denied_it() {
    for way in ways() {
        on_each_form!(nothing_late(way));
    }
}

/// A processor whose tables were not told, or whose TLB was not, is found.
#[cfg(feature = "breaks")]
#[test]
fn a_map_that_does_not_reach_the_processors_is_found() {
    use vellum_mmu::Break::{SkipFlush, StaleVector};
    for broken in [SkipFlush, StaleVector] {
        let config = BoardConfig { broken: Some(broken), ..storm::config(ShootDown::best()) };
        let found = (0..20).any(|_| late_stores(&activated::<Ept>(&config), 20) > 0);
        assert!(found, "{broken:?}");
    }
}

#[test]
fn a_map_may_be_set_before_anything_is_mapped() {
    let board = board::<Ept>(SubPageHardware::Present);
    let gfn = at(PAGES - 1, 0).gfn();
    restrict_in(&board, AddressSpace::NORMAL, gfn, 4);
    let mut maps = [SubPageMap::ALL; 2];
    let first = SubPageRange::new(AddressSpace::NORMAL, Gfn::new(gfn.get() - 1));
    assert_eq!(board.mmu().sub_pages(first, &mut maps), Ok(2));
    assert_eq!(maps, [SubPageMap::ALL, SubPageMap::new(4)]);
    let mut port = board.port().expect("memory");
    let last = Gpa::new(BASE + PAGES * PAGE_SIZE - 8);
    assert_eq!(put(&mut port, last, 1), denied(last, 4));
    assert_eq!(port.store(at(PAGES - 1, 2 * SUB_PAGE), Width::Double, 1), Ok(()));
}
