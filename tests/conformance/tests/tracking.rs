//! What others got wrong about page tracking, and what must not make a tracked page writable, on each
//! format, over small and huge leaves, with a port whose TLB holds what tracking is about to forbid.

mod owned;

use owned::{Owned, vm};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use vellum_machine::board::{Board, BoardConfig, PageSize};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::Port;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::{DirtySource, PageSet, Region};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, Npt, SlotId, Stage2, SubPageMap};

const SPACE: AddressSpace = AddressSpace::NORMAL;
const TRACKS: [Track; 3] = [Track::PerPage, Track::ProtectAll, Track::Manual];
/// First page and pages of each slot: neighbours, and nothing aligned. The second has room for two huge
/// leaves, from 1536 and from 2048.
const SLOTS: [(u64, u64); 3] = [(1001, 100), (1101, 1700), (2801, 65)];
/// Pages where something begins or ends: a slot, a huge leaf, a table.
const EDGES: [u64; 12] = [1001, 1100, 1101, 1535, 1536, 1700, 2047, 2048, 2559, 2560, 2801, 2865];
/// A page in the middle of a huge leaf.
const PAGE: u64 = 1700;

fn regions(space: AddressSpace) -> impl Iterator<Item = Region> {
    let first_name = space.0 * 3;
    (first_name..).zip(SLOTS).map(move |(slot, (first, pages))| {
        let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
        Region { slot: SlotId(slot), space, range }
    })
}

fn on_a_board<F: WalkedFormat>(law: fn(&Board<F>, &mut Port<'_, F>)) {
    for pages in [PageSize::Small, PageSize::Huge2M] {
        let spaces = [SPACE, AddressSpace::SMM];
        let config = BoardConfig::with_regions(spaces.into_iter().flat_map(regions).collect());
        let board = Board::<F>::new(&BoardConfig { pages, ..config }).expect("the host has memory");
        let mut port = board.port().expect("memory");
        EDGES.into_iter().for_each(|page| put(&mut port, page).expect("nobody tracks it"));
        board.mmu().enable_tracking().expect("the memory is open");
        law(&board, &mut port);
    }
}

macro_rules! everywhere {
    ($law:ident) => {
        on_a_board::<Ept>($law);
        on_a_board::<Npt>($law);
        on_a_board::<Stage2>($law);
    };
}

fn at(page: u64) -> Gpa {
    Gfn::new(page).gpa()
}

fn put<F: WalkedFormat>(port: &mut Port<'_, F>, page: u64) -> Result<(), BusError> {
    port.store(at(page), Width::Double, page)
}

/// A store that is emulated where it must be.
fn put_anyhow<F: WalkedFormat>(port: &mut Port<'_, F>, page: u64) {
    let by = EmulatedStore { hart: 0, pc: Gpa::new(0) };
    match put(port, page) {
        Err(BusError::Emulate(gpa)) => port.emulate_store(by, gpa, Width::Double, page),
        other => other,
    }
    .expect("RAM");
}

fn emulated(page: u64) -> Result<(), BusError> {
    Err(BusError::Emulate(at(page)))
}

fn track<F: WalkedFormat>(board: &Board<F>, page: u64) {
    board.mmu().track(SPACE, Gfn::new(page), TrackMode::Write).expect("memory");
}

fn untrack<F: WalkedFormat>(board: &Board<F>, page: u64) {
    board.mmu().untrack(SPACE, Gfn::new(page), TrackMode::Write).expect("it is tracked");
}

fn is_tracked<F: WalkedFormat>(board: &Board<F>, page: u64) -> bool {
    board.mmu().is_tracked(SPACE, Gfn::new(page), TrackMode::Write)
}

fn one_page_alone<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    for tracked in EDGES {
        track(board, tracked);
        // First without any fault that could have shot it down by accident.
        assert_eq!(put(port, tracked), emulated(tracked), "{} {tracked:#x}", F::NAME);
        for other in EDGES.into_iter().filter(|page| *page != tracked) {
            assert_eq!(put(port, other), Ok(()), "{} {other:#x}", F::NAME);
            assert!(!is_tracked(board, other));
        }
        assert_eq!(put(port, tracked), emulated(tracked), "nor do its neighbours open it");
        untrack(board, tracked);
        assert_eq!(put(port, tracked), Ok(()));
    }
}

#[test]
fn a_page_is_tracked_alone_wherever_it_is() {
    everywhere!(one_page_alone);
}

fn all_at_once<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    EDGES.into_iter().for_each(|page| track(board, page));
    for page in EDGES {
        assert_eq!(put(port, page), emulated(page), "{}", F::NAME);
        assert!(is_tracked(board, page));
    }
}

#[test]
fn pages_of_every_slot_are_shot_down_and_not_only_the_firsts() {
    everywhere!(all_at_once);
}

/// Each has a count of its own, which the other's end leaves alone.
fn twice<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    track(board, PAGE);
    track(board, PAGE);
    untrack(board, PAGE);
    assert_eq!(put(port, PAGE), emulated(PAGE));
    untrack(board, PAGE);
    assert_eq!(put(port, PAGE), Ok(()));
    let counts = board.mmu().counters();
    assert_eq!(put(port, PAGE), Ok(()));
    assert_eq!(board.mmu().counters().since(&counts, Event::Fault), 0, "once is enough");
}

#[test]
fn a_page_stays_tracked_until_nobody_tracks_it() {
    everywhere!(twice);
}

fn reads<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    track(board, PAGE);
    assert_eq!(port.load(at(PAGE), Width::Double), Ok(PAGE));
    let counts = board.mmu().counters();
    for _ in 0..3 {
        assert_eq!(put(port, PAGE), emulated(PAGE));
        assert_eq!(port.load(at(PAGE), Width::Double), Ok(PAGE), "nothing was stored");
    }
    assert_eq!(board.mmu().counters().since(&counts, Event::Fault), 3, "the stores'");
}

#[test]
fn reads_of_a_tracked_page_do_not_fault() {
    everywhere!(reads);
}

/// What others do to a page, or to all of them, that has nothing to do with tracking.
fn nothing_else<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let (mmu, id) = (board.mmu(), SlotId(1));
    let range = GfnRange::new(Gfn::new(SLOTS[1].0), SLOTS[1].1).expect("in range");
    let mut set = PageSet::new(board.layout());
    let set = &mut set.regions_mut()[1];
    track(board, PAGE);
    let mut held = |what: &str| {
        for page in [PAGE - 1, PAGE + 1, 2801] {
            assert_eq!(put(port, page), Ok(()), "{} {what}", F::NAME);
        }
        assert_eq!(put(port, PAGE), emulated(PAGE), "{} {what}", F::NAME);
        port.load(at(PAGE), Width::Double).expect("RAM");
        assert_eq!(put(port, PAGE), emulated(PAGE), "{} {what}, read", F::NAME);
    };
    held("tracking");
    mmu.start_log(id, Initial::Clean).expect("memory");
    held("a log that starts");
    mmu.take_dirty(id, Protect::Pages, set).expect("it is logged");
    held("a harvest");
    mmu.write_protect_all();
    held("write-protect-all");
    mmu.take_dirty(id, Protect::Nothing, set).expect("it is logged");
    mmu.write_protect_all();
    held("another");
    mmu.split_huge(id, u64::MAX).expect("it is there");
    held("splitting");
    mmu.age(id, range, set).expect("it is there");
    held("ageing");
    board.move_page(Gfn::new(PAGE)).expect("the host has memory");
    held("its memory's move");
    board.move_page(Gfn::new(PAGE)).expect("the host has memory");
    held("and its return");
    drop(mmu.invalidate(SPACE, range));
    held("an invalidation");
    mmu.stop_log(id).expect("it is logged");
    held("a log that stops");
    mmu.recover_huge(id).expect("it is there");
    held("huge leaves that come back");
    let spec = SlotSpec::new(SlotId(9), SPACE, GfnRange::new(Gfn::new(9000), 9).expect("in range"));
    mmu.create_slot(spec).expect("the place is free");
    mmu.delete_slot(SlotId(9)).expect("it is there");
    held("a slot that comes and goes");
}

#[test]
fn nothing_but_untracking_makes_a_tracked_page_writable() {
    everywhere!(nothing_else);
}

fn huge_again<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let mapped = |page| board.mmu().counters().since(&CounterSnapshot::default(), page);
    let huge = mapped(Event::Mapped) < EDGES.len() as u64;
    track(board, PAGE);
    track(board, PAGE + 1);
    let leaf = 1536..2048;
    for page in leaf.clone().filter(|page| ![PAGE, PAGE + 1].contains(page)) {
        put(port, page).expect("nobody tracks it");
    }
    for page in [PAGE, PAGE + 1] {
        port.load(at(page), Width::Double).expect("RAM");
        assert_eq!(board.mmu().recover_huge(SlotId(1)), Ok(0), "a page of it is tracked");
        untrack(board, page);
    }
    put(port, PAGE).expect("nobody tracks it any more");
    assert_eq!(board.mmu().recover_huge(SlotId(1)), Ok(u64::from(huge)), "{}", F::NAME);
    leaf.for_each(|page| put(port, page).expect("nobody tracks it any more"));
}

#[test]
fn a_huge_leaf_comes_back_after_the_last_tracked_page_of_it() {
    everywhere!(huge_again);
}

fn later<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let range = GfnRange::new(Gfn::new(5000), 100).expect("in range");
    let memory = MemoryId(SLOTS[1].0);
    let spec = SlotSpec { memory, ..SlotSpec::new(SlotId(9), SPACE, range) };
    board.mmu().create_slot(spec).expect("the place is free");
    put(port, 5003).expect("nobody tracks it");
    track(board, 5003);
    assert_eq!(put(port, 5003), emulated(5003));
    assert_eq!(put(port, SLOTS[1].0 + 3), Ok(()), "the same memory by another name");
    board.mmu().delete_slot(SlotId(9)).expect("it is there");
    board.mmu().create_slot(spec).expect("the place is free");
    assert!(!is_tracked(board, 5003), "another slot of the same name");
    assert_eq!(put(port, 5003), Ok(()));
    let mut newcomer = board.port().expect("memory");
    track(board, 5004);
    assert_eq!(put(&mut newcomer, 5004), emulated(5004));
}

#[test]
fn slots_and_vcpus_that_come_later_are_tracked_too() {
    everywhere!(later);
}

fn two_spaces<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    let mut other = board.port().expect("memory");
    other.enter_space(AddressSpace::SMM).expect("it is there");
    put(&mut other, PAGE).expect("nobody tracks it");
    track(board, PAGE);
    assert_eq!(put(port, PAGE), emulated(PAGE));
    assert_eq!(put(&mut other, PAGE), Ok(()));
    untrack(board, PAGE);
    board.mmu().track(AddressSpace::SMM, Gfn::new(PAGE), TrackMode::Write).expect("memory");
    assert_eq!(put(&mut other, PAGE), emulated(PAGE));
    assert_eq!(put(port, PAGE), Ok(()));
}

#[test]
fn a_page_is_tracked_in_one_address_space() {
    everywhere!(two_spaces);
}

/// The frames that a whole round names.
fn collect<F: WalkedFormat>(log: &mut BoardLog<'_, F>) -> Vec<u64> {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    for index in 0..round.regions().len() {
        let range = round.regions()[index].region().range;
        log.protect(index, range, &mut round).expect("the log is on");
    }
    let normal = round.regions().iter().filter(|set| set.region().space == SPACE);
    let frames = normal.flat_map(|set| {
        let first = set.region().range.first().get();
        set.pages().map(move |page| first + page)
    });
    frames.collect()
}

fn logged<F: WalkedFormat>(board: &Board<F>, port: &mut Port<'_, F>) {
    for method in TRACKS {
        let mut log = BoardLog::new(board, method);
        log.start().expect("memory");
        track(board, PAGE);
        for round in 0..3 {
            [PAGE, PAGE, 2048].into_iter().for_each(|page| put_anyhow(port, page));
            assert_eq!(collect(&mut log), [PAGE, 2048], "{} {method:?} {round}", F::NAME);
            assert!(collect(&mut log).is_empty(), "{} {method:?} {round}", F::NAME);
        }
        untrack(board, PAGE);
        assert_eq!(put(port, PAGE), Ok(()));
        assert_eq!(collect(&mut log), [PAGE], "and when nobody tracks it any more");
        log.stop().expect("it is on");
    }
}

#[test]
fn what_is_emulated_is_logged_once_a_harvest() {
    everywhere!(logged);
}

type Vm = Mmu<Ept, Owned>;

/// Whether a change returns while a write that began before it is under way.
fn returns_early(broken: Option<Break>, change: fn(&Vm), patience: impl Fn(&AtomicBool)) -> bool {
    let mmu: Arc<Vm> = vm(Owned::default(), Config { broken, ..Config::default() }, &SLOTS);
    mmu.enable_tracking().expect("the memory is open");
    mmu.activate_sub_pages().expect("memory");
    let (entering, entered) = mpsc::channel();
    let (go_on, waiting) = mpsc::channel();
    mmu.embedder().during_next_write(move || {
        entering.send(()).expect("somebody waits");
        waiting.recv().expect("somebody lets it go on");
    });
    let returned = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| mmu.guest_writer(Origin::Device).write(SPACE, at(PAGE), &[1]));
        entered.recv().expect("it writes");
        let changing = scope.spawn(|| {
            change(&mmu);
            returned.store(true, Ordering::Release);
        });
        patience(&returned);
        let early = returned.load(Ordering::Acquire);
        go_on.send(()).expect("it waits");
        changing.join().expect("no panic");
        early
    })
}

fn track_it(mmu: &Vm) {
    mmu.track(SPACE, Gfn::new(PAGE), TrackMode::Write).expect("memory");
}

fn restrict_it(mmu: &Vm) {
    let range = SubPageRange::new(SPACE, Gfn::new(PAGE));
    mmu.set_sub_pages(range, &[SubPageMap::NONE]).expect("memory");
}

#[test]
fn no_writer_that_began_before_is_under_way_when_a_change_returns() {
    for change in [track_it, restrict_it] {
        let others_run = |_: &AtomicBool| (0..2000).for_each(|_| thread::yield_now());
        assert!(!returns_early(None, change, others_run));
        // The control: a library that does not wait is found out.
        let forever = |returned: &AtomicBool| {
            while !returned.load(Ordering::Acquire) {
                thread::yield_now();
            }
        };
        assert!(returns_early(Some(Break::FreeEarly), change, forever));
    }
}
