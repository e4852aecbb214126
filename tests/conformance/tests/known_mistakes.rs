//! Mistakes that others made, each a test by its name.

use vellum_machine::PageSize;
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::Port;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::{DirtySource, PageSet, Region};
use vellum_mmu::{
    ClearRange, CreateSlotError, Event, Initial, LogError, NoSlot, Protect, SlotSpec,
};
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, Npt, SlotId, Stage2};

const TRACKS: [Track; 3] = [Track::PerPage, Track::ProtectAll, Track::Manual];
/// First page and pages of each slot: neighbours, and nothing aligned. The second has room for huge
/// leaves.
const SLOTS: [(u64, u64); 3] = [(1001, 100), (1101, 1700), (2801, 65)];

fn regions() -> Vec<Region> {
    let region = |(slot, (first, pages))| {
        let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
        Region { slot: SlotId(slot), space: AddressSpace::NORMAL, range }
    };
    (0..).zip(SLOTS).map(region).collect()
}

fn board<F: WalkedFormat>() -> Board<F> {
    board_of(PageSize::Small)
}

fn board_of<F: WalkedFormat>(pages: PageSize) -> Board<F> {
    let config = BoardConfig { pages, ..BoardConfig::with_regions(regions()) };
    Board::new(&config).expect("the host has memory")
}

fn spec(region: Region) -> SlotSpec {
    let Region { slot: id, space, range } = region;
    SlotSpec::new(id, space, range)
}

/// The address of a page of a slot.
fn at(slot: usize, page: u64) -> Gpa {
    Gfn::new(SLOTS[slot].0 + page).gpa()
}

fn store<F: WalkedFormat>(port: &mut Port<'_, F>, slot: usize, page: u64) {
    port.store(at(slot, page), Width::Double, 1).expect("RAM");
}

/// The pages that a whole round names, slot by slot.
fn collect<F: WalkedFormat>(log: &mut BoardLog<'_, F>) -> [Vec<u64>; 3] {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    for (slot, region) in regions().into_iter().enumerate() {
        log.protect(slot, region.range, &mut round).expect("the log is on");
    }
    std::array::from_fn(|slot| round.regions()[slot].pages().collect())
}

/// Holds a law to a started log over a board, for each way of tracking, page size and format.
macro_rules! everywhere {
    ($law:ident) => {
        for track in TRACKS {
            for pages in [PageSize::Small, PageSize::Huge2M] {
                on_a_board::<Ept>(track, pages, $law);
                on_a_board::<Npt>(track, pages, $law);
                on_a_board::<Stage2>(track, pages, $law);
            }
        }
    };
}

/// What was mapped before the log began is part of the proof.
fn on_a_board<F: WalkedFormat>(track: Track, pages: PageSize, law: fn(&Board<F>, BoardLog<'_, F>)) {
    let board = board_of(pages);
    let mut port = board.port().expect("memory");
    (0..3).for_each(|slot| store(&mut port, slot, 64));
    store(&mut port, 1, 600);
    drop(port);
    let mut log = BoardLog::new(&board, track);
    log.start().expect("memory");
    law(&board, log);
}

fn all_slots_are_protected<F: WalkedFormat>(board: &Board<F>, mut log: BoardLog<'_, F>) {
    log.stop().expect("it is on");
    let mut port = board.port().expect("memory");
    let mut store_everywhere = || (0..3).for_each(|slot| store(&mut port, slot, 64));
    store_everywhere();
    log.start().expect("memory");
    for round in 0..3 {
        store_everywhere();
        assert_eq!(collect(&mut log), [[64], [64], [64]], "round {round}");
    }
}

#[test]
fn a_harvest_protects_every_slot_and_not_only_the_first() {
    everywhere!(all_slots_are_protected);
}

fn an_error_keeps_its_promises<F: WalkedFormat>(board: &Board<F>, mut log: BoardLog<'_, F>) {
    let mut port = board.port().expect("memory");
    store(&mut port, 0, 9);
    board.mmu().stop_log(SlotId(1)).expect("it is on");
    let mut round = PageSet::new(log.layout());
    assert_eq!(log.collect(&mut round), Err(LogError::NotLogged(SlotId(1)).into()));
    store(&mut port, 0, 10);
    board.mmu().start_log(SlotId(1), Initial::Clean).expect("memory");
    assert_eq!(collect(&mut log), [vec![9, 10], vec![], vec![]], "the failed harvest is owed");
    store(&mut port, 0, 9);
    assert_eq!(collect(&mut log), [vec![9], vec![], vec![]], "and what it took is protected");
}

#[test]
fn a_harvest_that_fails_half_way_owes_its_pages_and_its_flush() {
    everywhere!(an_error_keeps_its_promises);
}

fn a_clean_end<F: WalkedFormat>(board: &Board<F>, mut log: BoardLog<'_, F>) {
    let mut port = board.port().expect("memory");
    store(&mut port, 0, 1);
    store(&mut port, 1, 3);
    store(&mut port, 1, 699);
    store(&mut port, 2, 64);
    assert_eq!(collect(&mut log), [vec![1], vec![3, 699], vec![64]]);
    store(&mut port, 2, 0);
    assert_eq!(collect(&mut log), [vec![], vec![], vec![0]]);
}

#[test]
fn a_slot_that_ends_clean_does_not_shift_the_next_ones_bitmap() {
    everywhere!(a_clean_end);
}

fn a_device_is_logged<F: WalkedFormat>(board: &Board<F>, mut log: BoardLog<'_, F>) {
    let mut port = board.port().expect("memory");
    (0..3).for_each(|slot| [0, 63, 64].into_iter().for_each(|page| store(&mut port, slot, page)));
    collect(&mut log);
    let space = AddressSpace::NORMAL;
    let across = Gpa::new(at(1, 64).get() - 3);
    board
        .mmu()
        .guest_writer(vellum_mmu::Origin::Device)
        .write(space, across, &[1; 8])
        .expect("RAM");
    board.mmu().mark_dirty(space, at(2, 0).gfn());
    assert_eq!(collect(&mut log), [vec![], vec![63, 64], vec![0]]);
    let into_the_next = Gpa::new(at(1, 0).get() - 8);
    board
        .mmu()
        .guest_writer(vellum_mmu::Origin::Device)
        .write(space, into_the_next, &[1; 8])
        .expect("RAM");
    let [first, second, _] = collect(&mut log);
    assert!(first.contains(&99) && second.is_empty(), "it ends with the page's last byte");
}

#[test]
fn a_devices_write_is_in_the_log() {
    everywhere!(a_device_is_logged);
}

fn a_read_lifts_nothing<F: WalkedFormat>(board: &Board<F>, mut log: BoardLog<'_, F>) {
    let mut port = board.port().expect("memory");
    [5, 6].into_iter().for_each(|page| store(&mut port, 1, page));
    collect(&mut log);
    board.mmu().write_protect_all();
    for page in [5, 6, 7, 690] {
        port.load(at(1, page), Width::Double).expect("RAM");
    }
    let far = at(2, 60);
    port.load(far, Width::Double).expect("RAM");
    for page in [5, 6, 7, 690] {
        store(&mut port, 1, page);
    }
    store(&mut port, 2, 60);
    // By now the way to this table is open, and a read maps a page in it.
    port.load(at(1, 8), Width::Double).expect("RAM");
    store(&mut port, 1, 8);
    assert_eq!(collect(&mut log), [vec![], vec![5, 6, 7, 8, 690], vec![60]]);
}

#[test]
fn a_read_under_write_protect_all_relinks_no_stale_table() {
    everywhere!(a_read_lifts_nothing);
}

/// A region is synchronized by itself between two synchronizations of the whole VM: by pages, since
/// the others' logs were not taken.
fn one_region_by_itself<F: WalkedFormat>(board: &Board<F>, mut log: BoardLog<'_, F>) {
    let mut port = board.port().expect("memory");
    (0..3).for_each(|slot| store(&mut port, slot, 5));
    let mut round = PageSet::new(log.layout());
    let pages = &mut round.regions_mut()[1];
    board.mmu().take_dirty(SlotId(1), Protect::Pages, pages).expect("its log is on");
    assert_eq!(pages.pages().collect::<Vec<_>>(), [5]);
    (0..3).for_each(|slot| store(&mut port, slot, 5));
    assert_eq!(collect(&mut log), [[5], [5], [5]], "{} {}", F::NAME, log.method());
}

#[test]
fn one_regions_harvest_beside_the_whole_vms_loses_nothing() {
    everywhere!(one_region_by_itself);
}

fn cleared_exactly<F: WalkedFormat>(board: &Board<F>, log: BoardLog<'_, F>) {
    let mut port = board.port().expect("memory");
    [3, 4, 64, 65, 130].into_iter().for_each(|page| store(&mut port, 1, page));
    let mut round = PageSet::new(log.layout());
    let pages = &mut round.regions_mut()[1];
    let range = ClearRange { first: 0, pages: 128 };
    let fetched = [1 << 3, 1 << 1];
    board.mmu().clear_dirty(SlotId(1), range, &fetched, pages).expect("its log is on");
    assert_eq!(pages.pages().collect::<Vec<_>>(), [3, 65]);
    [3, 65].into_iter().for_each(|page| store(&mut port, 1, page));
    pages.clear();
    board.mmu().read_dirty(SlotId(1), pages).expect("its log is on");
    assert_eq!(pages.pages().collect::<Vec<_>>(), [3, 4, 64, 65, 130]);
}

#[test]
fn a_bitmap_is_not_cleared_for_more_than_was_fetched() {
    everywhere!(cleared_exactly);
}

fn written_after_the_fetch<F: WalkedFormat>(board: &Board<F>, log: BoardLog<'_, F>) {
    let (mmu, mut port) = (board.mmu(), board.port().expect("memory"));
    [500, 501].into_iter().for_each(|page| store(&mut port, 1, page));
    let mut round = PageSet::new(log.layout());
    let fetched = &mut round.regions_mut()[1];
    mmu.read_dirty(SlotId(1), fetched).expect("its log is on");
    let mask: Vec<u64> = (0..1700_u64.div_ceil(64)).map(|word| fetched.word(word)).collect();
    store(&mut port, 1, 502);
    let range = ClearRange { first: 0, pages: 1700 };
    let mut cleared = PageSet::new(log.layout());
    let cleared = &mut cleared.regions_mut()[1];
    mmu.clear_dirty(SlotId(1), range, &mask, cleared).expect("its log is on");
    assert_eq!(cleared, fetched, "exactly what was fetched");
    fetched.clear();
    mmu.read_dirty(SlotId(1), fetched).expect("its log is on");
    assert_eq!(fetched.pages().collect::<Vec<_>>(), [502], "and what came after it is there");
}

#[test]
fn what_is_written_after_the_fetch_is_not_cleared_with_it() {
    everywhere!(written_after_the_fetch);
}

fn ends_with_the_last_log<F: WalkedFormat>(board: &Board<F>, mut log: BoardLog<'_, F>) {
    let mut port = board.port().expect("memory");
    board.mmu().write_protect_all();
    log.stop().expect("it is on");
    // It ends lazily: this opens the way to the table.
    store(&mut port, 1, 5);
    port.load(at(1, 3), Width::Double).expect("RAM");
    let counts = board.mmu().counters();
    store(&mut port, 1, 3);
    let faults = board.mmu().counters().since(&counts, Event::Fault);
    assert_eq!(faults, 0, "a read maps for writing, where nobody would hear of a write");
}

#[test]
fn write_protect_all_ends_with_the_last_log() {
    everywhere!(ends_with_the_last_log);
}

#[test]
fn no_more_is_cleared_than_was_fetched() {
    let board = board::<Ept>();
    let mut log = BoardLog::new(&board, Track::PerPage);
    log.start().expect("memory");
    let mut port = board.port().expect("memory");
    (0..3).for_each(|slot| store(&mut port, slot, 64));
    let mut round = PageSet::new(log.layout());
    let wrong = board.mmu().take_dirty(SlotId(0), Protect::Pages, &mut round.regions_mut()[1]);
    assert_eq!(wrong, Err(LogError::Mismatch { slot: 100, set: 1700 }));
    assert!(round.is_empty());
    board.mmu().take_dirty(SlotId(1), Protect::Pages, &mut round.regions_mut()[1]).expect("on");
    assert_eq!(round.count(), 1);
    assert_eq!(collect(&mut log), [vec![64], vec![], vec![64]]);
}

#[test]
fn a_slot_that_overlaps_exists_and_a_missing_one_is_not_found() {
    let board = board::<Ept>();
    let mmu = board.mmu();
    let [first, second, _] = regions()[..] else { panic!("three slots") };
    assert_eq!(mmu.create_slot(spec(first)), Err(CreateSlotError::Exists(first.slot)));
    for (from, pages) in [(1100, 1), (1090, 11), (1000, 2), (0, 1 << 20)] {
        let range = GfnRange::new(Gfn::new(from), pages).expect("in range");
        let clash = mmu.create_slot(SlotSpec { id: SlotId(9), range, ..spec(first) });
        assert!(matches!(clash, Err(CreateSlotError::Exists(_))), "{from} {pages}: {clash:?}");
    }
    let missing = SlotId(9);
    assert_eq!(mmu.delete_slot(missing), Err(NoSlot(missing)));
    assert_eq!(mmu.start_log(missing, Initial::Clean), Err(NoSlot(missing).into()));
    assert_eq!(mmu.owe(missing, 0, 1), Err(NoSlot(missing).into()));
    mmu.delete_slot(second.slot).expect("it is there");
    assert_eq!(mmu.delete_slot(second.slot), Err(NoSlot(second.slot)));
    mmu.create_slot(SlotSpec { id: missing, ..spec(second) }).expect("the place is free");
}

#[test]
fn logging_that_is_on_keeps_its_log_and_one_that_is_off_says_so() {
    let board = board::<Npt>();
    let (mmu, mut port) = (board.mmu(), board.port().expect("memory"));
    let mut round = PageSet::new(board.layout());
    let off = mmu.take_dirty(SlotId(1), Protect::Pages, &mut round.regions_mut()[1]);
    assert_eq!(off, Err(LogError::NotLogged(SlotId(1))));
    assert_eq!(mmu.stop_log(SlotId(1)), Err(LogError::NotLogged(SlotId(1))));
    mmu.start_log(SlotId(1), Initial::Clean).expect("memory");
    store(&mut port, 1, 77);
    mmu.start_log(SlotId(1), Initial::Clean).expect("on while on");
    mmu.take_dirty(SlotId(1), Protect::Pages, &mut round.regions_mut()[1]).expect("it is on");
    assert_eq!(round.regions()[1].pages().collect::<Vec<_>>(), [77]);
}

#[test]
fn two_vms_in_one_process_do_not_disturb_each_other() {
    let (one, other) = (board::<Ept>(), board::<Npt>());
    let mut logs = (BoardLog::new(&one, Track::ProtectAll), BoardLog::new(&other, Track::PerPage));
    logs.0.start().expect("memory");
    logs.1.start().expect("memory");
    let (mut port, mut neighbour) = (one.port().expect("memory"), other.port().expect("memory"));
    store(&mut neighbour, 1, 5);
    let counts = other.mmu().counters();
    store(&mut port, 1, 6);
    assert_eq!(collect(&mut logs.0), [vec![], vec![6], vec![]]);
    one.mmu().delete_slot(SlotId(2)).expect("it is there");
    assert_eq!(port.store(at(2, 0), Width::Byte, 1), Err(BusError::Unmapped(at(2, 0))));
    store(&mut neighbour, 1, 5);
    assert_eq!(neighbour.load(at(1, 6), Width::Double), Ok(0), "its memory is its own");
    assert_eq!(other.mmu().counters().since(&counts, Event::ShootDown), 0);
    assert_eq!(collect(&mut logs.1), [vec![], vec![5], vec![]]);
}
