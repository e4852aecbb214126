//! Ports, walkers, shoot-down and the library together: does the log hold every write?

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress, PAGE_BYTES, read_page, write_page};
use vellum_memory::{DirtySource, PageSet, Region};
use vellum_mmu::SlotSpec;
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, Npt, PAGE_SIZE, SlotId};

const BASE: u64 = 0x8000_0000;

fn config(bytes: u64, shoot_down: ShootDown) -> BoardConfig {
    let config = BoardConfig::with_memory(bytes).expect("in range");
    BoardConfig { shoot_down, ..config }
}

fn board<F: WalkedFormat>(pages: u64) -> Board<F> {
    Board::new(&config(pages * PAGE_SIZE, ShootDown::best())).expect("the host has memory")
}

fn at(page: u64, offset: u64) -> Gpa {
    Gpa::new(BASE + page * PAGE_SIZE + offset)
}

fn pages_of(round: &PageSet) -> Vec<u64> {
    round.regions()[0].pages().collect()
}

fn collect<F: WalkedFormat>(log: &mut BoardLog<'_, F>) -> Vec<u64> {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    pages_of(&round)
}

#[test]
fn what_was_stored_is_loaded_by_every_port() {
    let board = board::<Ept>(64);
    let (mut one, mut other) = (board.port().expect("memory"), board.port().expect("memory"));
    one.store(at(3, 8), Width::Double, 0x0102_0304_0506_0708).expect("RAM");
    assert_eq!(other.load(at(3, 8), Width::Double), Ok(0x0102_0304_0506_0708));
    assert_eq!(other.load(at(3, 9), Width::Half), Ok(0x0607));
    let direct: u64 = board.memory().read_obj(GuestAddress(at(3, 8).get())).expect("RAM");
    assert_eq!(direct, 0x0102_0304_0506_0708);
}

#[test]
fn an_access_may_cross_a_page() {
    let board = board::<Npt>(64);
    let mut port = board.port().expect("memory");
    port.store(at(1, 4093), Width::Double, 0x1122_3344_5566_7788).expect("RAM");
    assert_eq!(port.load(at(1, 4093), Width::Double), Ok(0x1122_3344_5566_7788));
    assert_eq!(port.load(at(2, 0), Width::Word), Ok(0x2233_4455));
}

#[test]
fn outside_the_memslots_nothing_answers() {
    let board = board::<Ept>(4);
    let mut port = board.port().expect("memory");
    let below = Gpa::new(BASE - 8);
    assert_eq!(port.load(below, Width::Byte), Err(BusError::Unmapped(below)));
    assert_eq!(port.store(at(4, 0), Width::Byte, 1), Err(BusError::Unmapped(at(4, 0))));
    let beyond_the_tables = Gpa::new(1 << 60);
    let answer = port.load(beyond_the_tables, Width::Byte);
    assert_eq!(answer, Err(BusError::Unmapped(beyond_the_tables)));
    let last = Gpa::new(u64::MAX);
    assert_eq!(port.load(last, Width::Double), Err(BusError::Unmapped(last)));
    assert!(port.fetch(Gfn::new(1), &mut [0; 1024]).is_err());
}

fn nothing_beyond_the_tables_answers<F: WalkedFormat>() {
    let board = board::<F>(4);
    let mut port = board.port().expect("memory");
    port.store(at(0, 0), Width::Byte, 1).expect("RAM");
    for bit in 48..64 {
        let alias = Gpa::new(at(0, 0).get() | 1 << bit);
        assert_eq!(port.load(alias, Width::Byte), Err(BusError::Unmapped(alias)));
        assert_eq!(port.store(alias, Width::Byte, 2), Err(BusError::Unmapped(alias)));
    }
    assert_eq!(port.load(at(0, 0), Width::Byte), Ok(1));
}

#[test]
fn an_address_beyond_the_tables_is_no_alias_of_one_below() {
    nothing_beyond_the_tables_answers::<Ept>();
    nothing_beyond_the_tables_answers::<Npt>();
}

#[test]
fn no_address_space_is_too_high_to_be_named() {
    let range = GfnRange::new(Gfn::new(0), 1).expect("in range");
    let space = AddressSpace(u16::MAX);
    let config = BoardConfig::with_regions(vec![Region { slot: SlotId(0), space, range }]);
    assert_eq!(config.spaces, u16::MAX);
}

#[test]
fn a_fetch_is_the_page_and_sees_later_stores() {
    let board = board::<Npt>(4);
    let mut port = board.port().expect("memory");
    let mut words = [0; 1024];
    port.store(at(2, 4092), Width::Word, 0xdead_beef).expect("RAM");
    port.fetch(at(2, 0).gfn(), &mut words).expect("RAM");
    assert_eq!((words[0], words[1023]), (0, 0xdead_beef));
}

#[test]
fn out_of_frames_is_said_and_survived() {
    let config = config(64 * PAGE_SIZE, ShootDown::best());
    let board = Board::<Ept>::new(&config).expect("the host has memory");
    let mut port = board.port().expect("memory");
    board.embedder().frames().set_limit(Some(board.embedder().frames().live()));
    let refused = port.store(at(0, 0), Width::Double, 7);
    assert_eq!(refused, Err(BusError::OutOfMemory(at(0, 0))));
    board.embedder().frames().set_limit(None);
    assert_eq!(port.store(at(0, 0), Width::Double, 7), Ok(()));
}

#[test]
fn a_deleted_slot_gives_its_frames_back() {
    let board = board::<Ept>(1 << 12);
    let frames = board.embedder().frames();
    let mut port = board.port().expect("memory");
    port.store(at(5, 0), Width::Byte, 1).expect("RAM");
    let mapped = frames.live();
    board.mmu().delete_slot(SlotId(0)).expect("it is there");
    let gone = frames.live();
    assert!(gone < mapped);
    assert_eq!(port.store(at(5, 0), Width::Byte, 1), Err(BusError::Unmapped(at(5, 0))));
    for _ in 0..1000 {
        let Region { slot: id, space, range } = board.layout().regions()[0];
        board.mmu().create_slot(SlotSpec::new(id, space, range)).expect("memory");
        port.store(at(5, 0), Width::Byte, 1).expect("RAM");
        board.mmu().delete_slot(id).expect("it is there");
        assert_eq!(frames.live(), gone);
    }
    assert!(frames.quarantined() < 100, "no walk is under way: frames are used again");
}

fn rounds_name_what_was_written<F: WalkedFormat>(track: Track) {
    let board = board::<F>(2048);
    let mut port = board.port().expect("memory");
    let mut write = |page| port.store(at(page, 0), Width::Byte, 1).expect("RAM");
    let mut log = BoardLog::new(&board, track);
    write(1);
    log.start().expect("memory");
    write(1);
    write(700);
    write(2047);
    assert_eq!(collect(&mut log), [1, 700, 2047], "{} {track:?}", F::NAME);
    assert_eq!(collect(&mut log), [0; 0]);
    write(700);
    write(3);
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    assert_eq!(pages_of(&round), [3, 700]);
    log.owe(&round);
    write(4);
    assert_eq!(collect(&mut log), [3, 4, 700], "owed pages are dirty again");
    log.stop().expect("it is on");
    log.stop().expect("stopping twice is the same as once");
    write(9);
}

#[test]
fn rounds_name_exactly_what_was_written() {
    for track in [Track::PerPage, Track::ProtectAll] {
        rounds_name_what_was_written::<Ept>(track);
        rounds_name_what_was_written::<Npt>(track);
    }
}

const STORM_PAGES: u64 = 600;
const WRITERS: usize = 3;

/// Stores counted values at pages that a xorshift picks, its own word in each.
fn storm<F: WalkedFormat>(
    mut port: Port<'_, F>,
    writer: u64,
    over: &AtomicBool,
    stores: &AtomicU64,
) {
    let mut random = 0x9e37_79b9 + writer;
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        count += 1;
        let place = at(random % STORM_PAGES, 8 * writer);
        port.store(place, Width::Double, count).expect("RAM");
        stores.store(count, Ordering::Relaxed);
    }
}

/// Copies the pages of `round` to `shadow`, as a migration would.
fn deliver<F: WalkedFormat>(board: &Board<F>, round: &PageSet, shadow: &Board<F>) {
    let first = board.layout().regions()[0].range.first();
    for page in pages_of(round) {
        let gfn = first.checked_add(page).expect("in range");
        let mut bytes = [0; PAGE_BYTES];
        read_page(board.memory(), gfn, &mut bytes).expect("RAM");
        write_page(shadow.memory(), gfn, &bytes).expect("RAM");
    }
}

/// Pages that differ after writers stormed through `rounds` harvests and stopped.
fn lost_pages<F: WalkedFormat>(config: &BoardConfig, track: Track, rounds: u64) -> Vec<u64> {
    let board = Board::<F>::new(config).expect("the host has memory");
    let shadow = Board::<F>::new(config).expect("the host has memory");
    let mut log = BoardLog::new(&board, track);
    log.start().expect("memory");
    let over = AtomicBool::new(false);
    let stores: [AtomicU64; WRITERS] = std::array::from_fn(|_| AtomicU64::new(0));
    let mut round = PageSet::new(log.layout());
    std::thread::scope(|scope| {
        for (writer, stores) in (0..).zip(&stores) {
            let port = board.port().expect("memory");
            let over = &over;
            scope.spawn(move || storm(port, writer, over, stores));
        }
        for _ in 0..rounds {
            let before = stores[0].load(Ordering::Relaxed);
            while stores[0].load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
            round.clear();
            log.collect(&mut round).expect("the log is on");
            deliver(&board, &round, &shadow);
        }
        over.store(true, Ordering::Relaxed);
    });
    round.clear();
    log.collect(&mut round).expect("the log is on");
    deliver(&board, &round, &shadow);
    (0..STORM_PAGES).filter(|&page| differ(&board, &shadow, page)).collect()
}

fn differ<F: WalkedFormat>(one: &Board<F>, other: &Board<F>, page: u64) -> bool {
    let gfn = at(page, 0).gfn();
    let (mut left, mut right) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
    read_page(one.memory(), gfn, &mut left).expect("RAM");
    read_page(other.memory(), gfn, &mut right).expect("RAM");
    left != right
}

fn ways() -> Vec<ShootDown> {
    let mut ways = vec![ShootDown::Waiting, ShootDown::best()];
    ways.dedup();
    ways
}

/// A requester that waits for preempted writers is slow where cores are few.
fn rounds(way: ShootDown) -> u64 {
    match way {
        ShootDown::Restartable => 100,
        ShootDown::Waiting => 12,
    }
}

#[test]
fn a_storm_of_stores_loses_no_page() {
    for way in ways() {
        let config = config(STORM_PAGES * PAGE_SIZE, way);
        for track in [Track::PerPage, Track::ProtectAll] {
            let lost = lost_pages::<Ept>(&config, track, rounds(way));
            assert!(lost.is_empty(), "EPT {way:?} {track:?}: {lost:?}");
            let lost = lost_pages::<Npt>(&config, track, rounds(way));
            assert!(lost.is_empty(), "NPT {way:?} {track:?}: {lost:?}");
        }
    }
}

/// The storm finds a library that forgets its shoot-down.
#[cfg(feature = "breaks")]
#[test]
fn the_storm_finds_a_forgotten_shoot_down() {
    for way in ways() {
        for track in [Track::PerPage, Track::ProtectAll] {
            let config = BoardConfig {
                broken: Some(vellum_mmu::Break::SkipFlush),
                ..config(STORM_PAGES * PAGE_SIZE, way)
            };
            let found = (0..20).any(|_| !lost_pages::<Ept>(&config, track, 100).is_empty());
            assert!(found, "{way:?} {track:?}");
        }
    }
}

fn region(slot: u16, space: AddressSpace, first: u64, pages: u64) -> Region {
    let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
    Region { slot: SlotId(slot), space, range }
}

#[test]
fn each_address_space_shows_its_own_slots() {
    let normal = region(0, AddressSpace::NORMAL, 16, 16);
    let smm = region(1, AddressSpace::SMM, 64, 16);
    let board = Board::<Ept>::new(&BoardConfig::with_regions(vec![normal, smm]));
    let board = board.expect("the host has memory");
    let mut port = board.port().expect("memory");
    let (here, there) = (Gfn::new(20).gpa(), Gfn::new(70).gpa());
    port.store(here, Width::Byte, 1).expect("RAM");
    assert_eq!(port.store(there, Width::Byte, 1), Err(BusError::Unmapped(there)));
    port.enter_space(AddressSpace::SMM).expect("there are two");
    assert_eq!(port.store(here, Width::Byte, 1), Err(BusError::Unmapped(here)));
    port.store(there, Width::Byte, 1).expect("RAM");
    assert!(port.enter_space(AddressSpace(2)).is_err());
}

#[test]
fn regions_of_two_spaces_that_name_the_same_pages_share_them() {
    let both = [AddressSpace::NORMAL, AddressSpace::SMM];
    let regions = (0..).zip(both).map(|(slot, space)| region(slot, space, 16, 16)).collect();
    let board = Board::<Npt>::new(&BoardConfig::with_regions(regions)).expect("memory");
    let mut port = board.port().expect("memory");
    port.store(Gfn::new(20).gpa(), Width::Byte, 7).expect("RAM");
    port.enter_space(AddressSpace::SMM).expect("there are two");
    assert_eq!(port.load(Gfn::new(20).gpa(), Width::Byte), Ok(7));
}

#[test]
fn a_terabyte_of_untouched_ram_costs_nothing() {
    let board = Board::<Ept>::new(&config(1 << 40, ShootDown::best())).expect("sparse");
    let mut port = board.port().expect("memory");
    let last = Gpa::new(BASE + (1 << 40) - 8);
    port.store(last, Width::Double, 9).expect("RAM");
    assert_eq!(port.load(last, Width::Double), Ok(9));
}
