//! Tracked pages under ports: every store is emulated, heard, and as atomic as any other.

#[macro_use]
mod storm;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use storm::{BY, at, lost_pages_of, rounds, store, ways};
use vellum_machine::board::{Board, BoardConfig, PageSize};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::embedder::BoardEmbedder;
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::log::Track;
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::WalkedFormat;
use vellum_mmu::{Call, Mmu, Origin, TrackMode, WriteListener, Written};
use vellum_pte::{AddressSpace, Gpa, PAGE_SIZE};

const SPACE: AddressSpace = AddressSpace::NORMAL;

/// What a listener was told, and whose instruction it found.
type Told = (Gpa, Vec<u8>, Origin, Option<EmulatedStore>);

#[derive(Default)]
struct Notes(Mutex<Vec<Told>>);

impl Notes {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().expect("nobody panics"))
    }
}

impl<F: WalkedFormat> WriteListener<F, BoardEmbedder> for Notes {
    fn write(&self, _: &Call<'_, F, BoardEmbedder>, written: &Written<'_>) {
        let Written { space, gpa, bytes, origin } = *written;
        assert_eq!(space, SPACE);
        let told = (gpa, bytes.to_vec(), origin, EmulatedStore::current());
        self.0.lock().expect("nobody panics").push(told);
    }
}

fn board<F: WalkedFormat>(way: ShootDown) -> Board<F> {
    Board::new(&storm::config(way)).expect("the host has memory")
}

fn track<F: WalkedFormat>(board: &Board<F>, page: u64) {
    board.mmu().track(SPACE, at(page, 0).gfn(), TrackMode::Write).expect("a slot has it");
}

fn untrack<F: WalkedFormat>(board: &Board<F>, page: u64) {
    board.mmu().untrack(SPACE, at(page, 0).gfn(), TrackMode::Write).expect("it is tracked");
}

fn heard_with_its_bytes<F: WalkedFormat>() {
    let board = board::<F>(ShootDown::best());
    let notes = Arc::new(Notes::default());
    let listener: Arc<Notes> = Arc::clone(&notes);
    let registration = Mmu::listen(board.mmu(), listener).expect("it is ours");
    let mut port = board.port().expect("memory");
    port.store(at(3, 0), Width::Double, 0).expect("nobody tracks it");
    track(&board, 3);
    let value = 0x8182_8384_8586_8788;
    let mut expected = Vec::new();
    let widths = [Width::Byte, Width::Half, Width::Word, Width::Double];
    for (width, length) in widths.into_iter().zip([1, 2, 4, 8]) {
        let here = at(3, 8 * width.bytes());
        assert_eq!(port.store(here, width, value), Err(BusError::Emulate(here)), "{}", F::NAME);
        assert_eq!(port.load(here, width), Ok(0), "loads are direct, and nothing is stored");
        port.emulate_store(BY, here, width, value).expect("RAM");
        let bytes = value.to_le_bytes()[..length].to_vec();
        expected.push((here, bytes, Origin::Vcpu(BY.hart), Some(BY)));
        let low = value & (u64::MAX >> (64 - 8 * width.bytes()));
        assert_eq!(port.load(here, width), Ok(low));
    }
    assert_eq!(notes.take(), expected, "{}", F::NAME);
    port.store(at(4, 0), Width::Double, 7).expect("nobody tracks its neighbour");
    untrack(&board, 3);
    port.store(at(3, 0), Width::Double, 7).expect("nobody tracks it any more");
    assert_eq!(notes.take(), []);
    registration.unregister();
    assert_eq!(EmulatedStore::current(), None);
}

#[test]
fn a_tracked_store_is_heard_with_its_bytes_and_its_instruction() {
    on_each_format!(heard_with_its_bytes());
}

fn across_pages<F: WalkedFormat>() {
    let board = board::<F>(ShootDown::best());
    let notes = Arc::new(Notes::default());
    let listener: Arc<Notes> = Arc::clone(&notes);
    let _registered = Mmu::listen(board.shared_mmu(), listener).expect("it is ours");
    let mut port = board.port().expect("memory");
    let across = at(3, PAGE_SIZE - 3);
    for tracked in [3, 4] {
        track(&board, tracked);
        store(&mut port, across, Width::Double, u64::MAX).expect("RAM");
        let told = (across, vec![0xff; 8], Origin::Vcpu(BY.hart), Some(BY));
        assert_eq!(notes.take(), [told], "{}: one store, once", F::NAME);
        untrack(&board, tracked);
    }
    let last = at(storm::PAGES - 1, PAGE_SIZE - 3);
    track(&board, storm::PAGES - 1);
    let end = at(storm::PAGES, 0);
    let refused = store(&mut port, last, Width::Double, u64::MAX);
    assert_eq!(refused, Err(BusError::Unmapped(end)), "{}", F::NAME);
    assert_eq!(port.load(at(storm::PAGES - 1, PAGE_SIZE - 8), Width::Double), Ok(0));
    assert_eq!(notes.take(), []);
}

#[test]
fn a_store_over_a_tracked_page_and_another_is_one_store() {
    on_each_format!(across_pages());
}

fn under_huge_leaves<F: WalkedFormat>(pages: PageSize) {
    let config = BoardConfig::with_memory(2 << 30).expect("in range");
    let board = Board::<F>::new(&BoardConfig { pages, ..config }).expect("the host has memory");
    board.mmu().enable_tracking().expect("nothing is confidential");
    let mut port = board.port().expect("memory");
    port.store(at(3, 0), Width::Byte, 1).expect("RAM");
    track(&board, 3);
    let answers = [3, 2].map(|page| port.store(at(page, 0), Width::Byte, 2));
    assert_eq!(answers, [Err(BusError::Emulate(at(3, 0))), Ok(())], "{} {pages:?}", F::NAME);
}

#[test]
fn a_page_of_a_huge_leaf_is_tracked_alone() {
    for pages in [PageSize::Huge2M, PageSize::Huge1G] {
        on_each_format!(under_huge_leaves(pages));
    }
}

/// Keeps the last double word it was told of.
#[derive(Default)]
struct Last(AtomicU64);

impl<F: WalkedFormat> WriteListener<F, BoardEmbedder> for Last {
    fn write(&self, _: &Call<'_, F, BoardEmbedder>, written: &Written<'_>) {
        let bytes = written.bytes.try_into().expect("a double word");
        self.0.store(u64::from_le_bytes(bytes), Ordering::Release);
    }
}

/// What a storing vCPU and whoever tracks tell each other.
#[derive(Default)]
struct Stage {
    /// Where to store.
    page: AtomicU64,
    /// The page that is tracked now: from 1 on.
    tracked: AtomicU64,
    /// Stores so far.
    stores: AtomicU64,
    over: AtomicBool,
}

impl Stage {
    /// Waits until so many stores more have begun and ended.
    fn wait(&self, more: u64) {
        let before = self.stores.load(Ordering::SeqCst);
        while self.stores.load(Ordering::SeqCst) <= before + more {
            std::thread::yield_now();
        }
    }
}

/// How many stores to a tracked page nobody heard of: stores that began after `track` had returned.
fn unheard<F: WalkedFormat>(board: &Board<F>, pages: u64) -> u64 {
    let (stage, last) = (Stage::default(), Arc::new(Last::default()));
    stage.page.store(1, Ordering::SeqCst);
    let listener: Arc<Last> = Arc::clone(&last);
    let _registered = Mmu::listen(board.mmu(), listener).expect("it is ours");
    std::thread::scope(|scope| {
        let storing = scope.spawn(|| {
            let mut port = board.port().expect("memory");
            let mut missed = 0;
            for count in 1.. {
                let page = stage.page.load(Ordering::SeqCst);
                let tracked = stage.tracked.load(Ordering::SeqCst) == page;
                store(&mut port, at(page, 8), Width::Double, count).expect("RAM");
                missed += u64::from(tracked && last.0.load(Ordering::Acquire) != count);
                stage.stores.store(count, Ordering::SeqCst);
                if stage.over.load(Ordering::SeqCst) {
                    break;
                }
            }
            missed
        });
        for page in 1..=pages {
            stage.page.store(page, Ordering::SeqCst);
            stage.wait(2);
            track(board, page);
            stage.tracked.store(page, Ordering::SeqCst);
            stage.wait(3);
        }
        stage.over.store(true, Ordering::SeqCst);
        storing.join().expect("it does not panic")
    })
}

fn nothing_is_unheard<F: WalkedFormat>(way: ShootDown) {
    assert_eq!(unheard(&board::<F>(way), 3 * rounds(way) as u64), 0, "{} {way:?}", F::NAME);
}

#[test]
fn no_store_is_unheard_once_its_page_is_tracked() {
    for way in ways() {
        on_each_format!(nothing_is_unheard(way));
    }
}

#[cfg(feature = "breaks")]
#[test]
fn a_page_that_is_tracked_without_a_shoot_down_is_found() {
    use vellum_mmu::Break::SkipFlush;
    let config = BoardConfig { broken: Some(SkipFlush), ..storm::config(ShootDown::best()) };
    let found = (0..20).any(|_| {
        let board = Board::<vellum_pte::Ept>::new(&config).expect("the host has memory");
        unheard(&board, 100) > 0
    });
    assert!(found);
}

/// Counts up by compare-exchange, emulated or not.
fn count_up<F: WalkedFormat>(mut port: Port<'_, F>, at: Gpa, times: u64) {
    for _ in 0..times {
        let mut held = port.load(at, Width::Double).expect("RAM");
        loop {
            let exchange = (held, held + 1);
            let answer = match port.compare_exchange(at, Width::Double, exchange.0, exchange.1) {
                Err(BusError::Emulate(_)) => {
                    port.emulate_compare_exchange(BY, at, Width::Double, exchange)
                }
                other => other,
            };
            match answer.expect("RAM") {
                found if found == held => break,
                found => held = found,
            }
        }
    }
}

/// Atomics of several vCPUs on a page that is tracked and untracked all the while. Some are emulated
/// while others go by a TLB that is being shot down.
fn atomics_stay_atomic<F: WalkedFormat>(way: ShootDown) {
    let board = board::<F>(way);
    board.mmu().enable_tracking().expect("nothing is confidential");
    let (times, counters) = (if way == ShootDown::Waiting { 5_000 } else { 50_000 }, 2);
    let running = AtomicU64::new(counters);
    std::thread::scope(|scope| {
        for _ in 0..counters {
            let (board, running) = (&board, &running);
            scope.spawn(move || {
                count_up(board.port().expect("memory"), at(3, 8), times);
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while running.load(Ordering::SeqCst) > 0 {
            track(&board, 3);
            std::thread::yield_now();
            untrack(&board, 3);
            std::thread::yield_now();
        }
    });
    let mut port = board.port().expect("memory");
    let counted = port.load(at(3, 8), Width::Double);
    assert_eq!(counted, Ok(counters * times), "{} {way:?}", F::NAME);
}

#[test]
fn atomics_stay_atomic_while_their_page_becomes_tracked() {
    for way in ways() {
        on_each_format!(atomics_stay_atomic(way));
    }
}

fn tracked_stores_are_logged<F: WalkedFormat>(way: ShootDown, log: Track) {
    let board = board::<F>(way);
    board.mmu().enable_tracking().expect("nothing is confidential");
    (0..storm::PAGES).step_by(2).for_each(|page| track(&board, page));
    let lost = lost_pages_of(&board, log, rounds(way));
    assert!(lost.is_empty(), "{} {way:?} {log:?}: {lost:?}", F::NAME);
}

#[test]
fn a_storm_on_tracked_pages_loses_no_page() {
    for (way, log) in ways().into_iter().flat_map(|way| storm::TRACKS.map(|log| (way, log))) {
        on_each_format!(tracked_stores_are_logged(way, log));
    }
}

/// Tracks the next page from inside of a call, and stores.
struct Follower;

impl<F: WalkedFormat> WriteListener<F, BoardEmbedder> for Follower {
    fn write(&self, call: &Call<'_, F, BoardEmbedder>, written: &Written<'_>) {
        let next = Gpa::new(written.gpa.get() + PAGE_SIZE);
        if written.origin == Origin::Device {
            return;
        }
        call.mmu().track(SPACE, next.gfn(), TrackMode::Write).expect("a slot has it");
        let writer = call.mmu().guest_writer(Origin::Device);
        writer.write(SPACE, next, written.bytes).expect("RAM");
    }
}

fn from_inside_of_a_call<F: WalkedFormat>() {
    let board = board::<F>(ShootDown::best());
    let _registered = Mmu::listen(board.mmu(), Arc::new(Follower)).expect("it is ours");
    let mut port = board.port().expect("memory");
    track(&board, 3);
    let exchanged = port.emulate_compare_exchange(BY, at(3, 8), Width::Double, (0, 7));
    assert_eq!(exchanged, Ok(0));
    assert_eq!(port.load(at(4, 8), Width::Double), Ok(7), "{}: a write, no exchange", F::NAME);
    let refused = port.emulate_compare_exchange(BY, at(3, 8), Width::Double, (0, 9));
    assert_eq!(refused, Ok(7));
    assert_eq!(port.load(at(4, 8), Width::Double), Ok(7), "what was not written is not heard");
    assert_eq!(port.store(at(4, 8), Width::Byte, 1), Err(BusError::Emulate(at(4, 8))));
}

#[test]
fn a_listener_may_track_and_write_from_inside_of_a_call() {
    on_each_format!(from_inside_of_a_call());
}
