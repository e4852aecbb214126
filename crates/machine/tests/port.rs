//! Ports, walkers, shoot-down and the library together: does the log hold every write?

#[macro_use]
mod storm;

use storm::{BASE, at, storm_loses_nothing};
use vellum_machine::board::{Board, BoardConfig, PageSize};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::error::BoardError;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::ShootDown;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_memory::{DirtySource, PageSet, Region};
use vellum_mmu::SlotSpec;
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, Npt, PAGE_SIZE, SlotId, Stage2};

fn config(bytes: u64, shoot_down: ShootDown) -> BoardConfig {
    let config = BoardConfig::with_memory(bytes).expect("in range");
    BoardConfig { shoot_down, ..config }
}

fn board<F: WalkedFormat>(pages: u64) -> Board<F> {
    Board::new(&config(pages * PAGE_SIZE, ShootDown::best())).expect("the host has memory")
}

fn pages_of(round: &PageSet) -> Vec<u64> {
    round.regions()[0].pages().collect()
}

fn collect<F: WalkedFormat>(log: &mut BoardLog<'_, F>) -> Vec<u64> {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    pages_of(&round)
}

fn every_port_loads<F: WalkedFormat>() {
    let board = board::<F>(64);
    let (mut one, mut other) = (board.port().expect("memory"), board.port().expect("memory"));
    one.store(at(3, 8), Width::Double, 0x0102_0304_0506_0708).expect("RAM");
    assert_eq!(other.load(at(3, 8), Width::Double), Ok(0x0102_0304_0506_0708));
    assert_eq!(other.load(at(3, 9), Width::Half), Ok(0x0607));
    let direct: u64 = board.memory().read_obj(GuestAddress(at(3, 8).get())).expect("RAM");
    assert_eq!(direct, 0x0102_0304_0506_0708);
}

#[test]
fn what_was_stored_is_loaded_by_every_port() {
    on_each_format!(every_port_loads());
}

fn crosses_a_page<F: WalkedFormat>() {
    let board = board::<F>(64);
    let mut port = board.port().expect("memory");
    port.store(at(1, 4093), Width::Double, 0x1122_3344_5566_7788).expect("RAM");
    assert_eq!(port.load(at(1, 4093), Width::Double), Ok(0x1122_3344_5566_7788));
    assert_eq!(port.load(at(2, 0), Width::Word), Ok(0x2233_4455));
}

#[test]
fn an_access_may_cross_a_page() {
    on_each_format!(crosses_a_page());
}

fn nothing_answers_outside<F: WalkedFormat>() {
    let board = board::<F>(4);
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

#[test]
fn outside_the_memslots_nothing_answers() {
    on_each_format!(nothing_answers_outside());
}

fn nothing_beyond_the_tables_answers<F: WalkedFormat>() {
    let board = board::<F>(4);
    let mut port = board.port().expect("memory");
    port.store(at(0, 0), Width::Byte, 1).expect("RAM");
    for bit in board.regime().address_bits..64 {
        let alias = Gpa::new(at(0, 0).get() | 1 << bit);
        assert_eq!(port.load(alias, Width::Byte), Err(BusError::Unmapped(alias)));
        assert_eq!(port.store(alias, Width::Byte, 2), Err(BusError::Unmapped(alias)));
    }
    assert_eq!(port.load(at(0, 0), Width::Byte), Ok(1));
}

#[test]
fn an_address_beyond_the_tables_is_no_alias_of_one_below() {
    on_each_format!(nothing_beyond_the_tables_answers());
}

#[test]
fn no_address_space_is_too_high_to_be_named() {
    let range = GfnRange::new(Gfn::new(0), 1).expect("in range");
    let space = AddressSpace(u16::MAX);
    let config = BoardConfig::with_regions(vec![Region { slot: SlotId(0), space, range }]);
    assert_eq!(config.spaces, u16::MAX);
}

fn a_fetch_sees_later_stores<F: WalkedFormat>() {
    let board = board::<F>(4);
    let mut port = board.port().expect("memory");
    let mut words = [0; 1024];
    port.store(at(2, 4092), Width::Word, 0xdead_beef).expect("RAM");
    port.fetch(at(2, 0).gfn(), &mut words).expect("RAM");
    assert_eq!((words[0], words[1023]), (0, 0xdead_beef));
}

#[test]
fn a_fetch_is_the_page_and_sees_later_stores() {
    on_each_format!(a_fetch_sees_later_stores());
}

fn out_of_frames_is_survived<F: WalkedFormat>() {
    let board = board::<F>(64);
    let mut port = board.port().expect("memory");
    board.embedder().frames().set_limit(Some(board.embedder().frames().live()));
    let refused = port.store(at(0, 0), Width::Double, 7);
    assert_eq!(refused, Err(BusError::OutOfMemory(at(0, 0))));
    board.embedder().frames().set_limit(None);
    assert_eq!(port.store(at(0, 0), Width::Double, 7), Ok(()));
}

#[test]
fn out_of_frames_is_said_and_survived() {
    on_each_format!(out_of_frames_is_survived());
}

fn a_slot_comes_and_goes<F: WalkedFormat>() {
    let board = board::<F>(1 << 12);
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

#[test]
fn a_deleted_slot_gives_its_frames_back() {
    on_each_format!(a_slot_comes_and_goes());
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
        on_each_format!(rounds_name_what_was_written(track));
    }
}

fn protect<F: WalkedFormat>(log: &mut BoardLog<'_, F>, first: u64, pages: u64) -> Vec<u64> {
    let mut round = PageSet::new(log.layout());
    let range = GfnRange::new(at(first, 0).gfn(), pages).expect("in range");
    log.protect(0, range, &mut round).expect("the log is on");
    pages_of(&round)
}

fn manual_protect_takes_what_it_is_asked_for<F: WalkedFormat>() {
    let board = board::<F>(64 * 64 + 100);
    let mut port = board.port().expect("memory");
    let mut write = |page| port.store(at(page, 0), Width::Byte, 1).expect("RAM");
    let mut log = BoardLog::new(&board, Track::Manual);
    log.start().expect("memory");
    [0, 10, 63, 64, 4095, 4096, 4195].into_iter().for_each(&mut write);
    let all = [0, 10, 63, 64, 4095, 4096, 4195];
    assert_eq!(collect(&mut log), all);
    assert_eq!(collect(&mut log), all, "reading takes nothing");
    assert_eq!(protect(&mut log, 0, 63), [0, 10]);
    write(10);
    assert_eq!(protect(&mut log, 63, 1), [63], "of a word that was copied in part, the rest");
    assert_eq!(collect(&mut log), [10, 64, 4095, 4096, 4195], "a store since is in a later round");
    assert_eq!(protect(&mut log, 0, 5000), [10, 64, 4095, 4096, 4195]);
    assert_eq!(collect(&mut log), [0; 0]);
    write(64);
    assert_eq!(protect(&mut log, 65, 0), [0; 0]);
    assert_eq!(protect(&mut log, 64, 1), [64]);
    let mut undelivered = PageSet::new(log.layout());
    undelivered.regions_mut()[0].insert_word(1, 1);
    log.owe(&undelivered);
    assert_eq!(collect(&mut log), [64], "owed pages are dirty again");
}

#[test]
fn manual_protect_takes_the_pages_of_a_range_and_no_others() {
    on_each_format!(manual_protect_takes_what_it_is_asked_for());
}

#[test]
fn a_storm_of_stores_loses_no_page() {
    for way in storm::ways() {
        for track in storm::TRACKS {
            on_each_format!(storm_loses_nothing(&storm::config(way), track));
        }
    }
}

/// The storm finds a library that forgets its shoot-down.
#[cfg(feature = "breaks")]
#[test]
fn the_storm_finds_a_forgotten_shoot_down() {
    for way in storm::ways() {
        for track in storm::TRACKS {
            let broken = Some(vellum_mmu::Break::SkipFlush);
            let config = BoardConfig { broken, ..storm::config(way) };
            let found = (0..20).any(|_| !storm::lost_pages::<Ept>(&config, track, 100).is_empty());
            assert!(found, "{way:?} {track:?}");
        }
    }
}

fn region(slot: u16, space: AddressSpace, first: u64, pages: u64) -> Region {
    let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
    Region { slot: SlotId(slot), space, range }
}

fn each_space_shows_its_own<F: WalkedFormat>() {
    let normal = region(0, AddressSpace::NORMAL, 16, 16);
    let smm = region(1, AddressSpace::SMM, 64, 16);
    let board = Board::<F>::new(&BoardConfig::with_regions(vec![normal, smm]));
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
fn each_address_space_shows_its_own_slots() {
    on_each_format!(each_space_shows_its_own());
}

fn two_spaces_share<F: WalkedFormat>(pages: PageSize) {
    let both = [AddressSpace::NORMAL, AddressSpace::SMM];
    let regions = (0..).zip(both).map(|(slot, space)| region(slot, space, 16, 2048)).collect();
    let config = BoardConfig { pages, ..BoardConfig::with_regions(regions) };
    let board = Board::<F>::new(&config).expect("memory");
    let mut port = board.port().expect("memory");
    port.store(Gfn::new(20).gpa(), Width::Byte, 7).expect("RAM");
    port.enter_space(AddressSpace::SMM).expect("there are two");
    assert_eq!(port.load(Gfn::new(20).gpa(), Width::Byte), Ok(7));
}

#[test]
fn regions_of_two_spaces_that_name_the_same_pages_share_them() {
    for pages in [PageSize::Small, PageSize::Huge2M] {
        on_each_format!(two_spaces_share(pages));
    }
}

fn a_terabyte_costs_nothing<F: WalkedFormat>(pages: PageSize) {
    let config = BoardConfig { pages, ..config(1 << 40, ShootDown::best()) };
    let board = Board::<F>::new(&config).expect("sparse");
    let mut port = board.port().expect("memory");
    let last = Gpa::new(BASE + (1 << 40) - 8);
    port.store(last, Width::Double, 9).expect("RAM");
    assert_eq!(port.load(last, Width::Double), Ok(9));
}

#[test]
fn a_terabyte_of_untouched_ram_costs_nothing() {
    for pages in [PageSize::Small, PageSize::Huge2M, PageSize::Huge1G] {
        on_each_format!(a_terabyte_costs_nothing(pages));
    }
}

/// What the tables translate, and how the root is: level, tables side by side.
fn shape<F: WalkedFormat>(config: &BoardConfig) -> (u32, u8, u32) {
    let board = Board::<F>::new(config).expect("the host has memory");
    let mut port = board.port().expect("memory");
    let region = board.layout().regions()[0].range;
    let last = Gfn::new(region.end().get() - 1).gpa();
    port.store(last, Width::Byte, 7).expect("RAM");
    assert_eq!(port.load(last, Width::Byte), Ok(7));
    let root = board.mmu().root_shape();
    (board.regime().address_bits, root.level.get(), root.tables)
}

#[test]
fn tables_translate_what_the_memslots_need() {
    let ending_at = |bits: u32| {
        let last = Gfn::new((1 << (bits - 12)) - 8).get();
        BoardConfig::with_regions(vec![region(0, AddressSpace::NORMAL, last, 8)])
    };
    assert_eq!(shape::<Stage2>(&ending_at(32)), (40, 3, 2), "no fewer than usual");
    assert_eq!(shape::<Stage2>(&ending_at(40)), (40, 3, 2));
    assert_eq!(shape::<Stage2>(&ending_at(41)), (41, 3, 4));
    assert_eq!(shape::<Stage2>(&ending_at(43)), (43, 3, 16));
    assert_eq!(shape::<Stage2>(&ending_at(48)), (48, 4, 1));
    assert_eq!(shape::<Ept>(&ending_at(32)), (48, 4, 1));
    assert_eq!(shape::<Npt>(&ending_at(48)), (48, 4, 1));
    let told = |bits| BoardConfig { address_bits: Some(bits), ..ending_at(32) };
    assert_eq!(shape::<Stage2>(&told(32)), (32, 2, 4));
    assert_eq!(shape::<Stage2>(&told(34)), (34, 2, 16));
    assert_eq!(shape::<Stage2>(&told(37)), (37, 3, 1));
    assert!(matches!(Board::<Stage2>::new(&told(31)), Err(BoardError::Tables(_))));
    assert!(matches!(Board::<Stage2>::new(&ending_at(49)), Err(BoardError::Slot(_))));
    assert!(matches!(Board::<Ept>::new(&ending_at(49)), Err(BoardError::Slot(_))));
}
