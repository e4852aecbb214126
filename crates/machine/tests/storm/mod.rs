//! Writers that store all over a board, and a consumer that copies what the log names: does the copy
//! end up the same?

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress, PAGE_BYTES, read_page, write_page};
use vellum_memory::{DirtySource, PageSet};
use vellum_pte::{Gpa, PAGE_SIZE};

/// Runs a test that is generic over the format on every format.
#[allow(unused_macros, reason = "not every test has one")]
macro_rules! on_each_format {
    ($test:ident($($argument:expr),*)) => {{
        $test::<vellum_pte::Ept>($($argument),*);
        $test::<vellum_pte::Npt>($($argument),*);
        $test::<vellum_pte::Stage2>($($argument),*);
    }};
}

pub(crate) const BASE: u64 = 0x8000_0000;
/// More than 2 MiB, and no multiple of it.
pub(crate) const PAGES: u64 = 600;
const WRITERS: u64 = 3;

pub(crate) const TRACKS: [Track; 3] = [Track::PerPage, Track::ProtectAll, Track::Manual];

pub(crate) fn at(page: u64, offset: u64) -> Gpa {
    Gpa::new(BASE + page * PAGE_SIZE + offset)
}

/// A board for the storm.
pub(crate) fn config(shoot_down: ShootDown) -> BoardConfig {
    let config = BoardConfig::with_memory(PAGES * PAGE_SIZE).expect("in range");
    BoardConfig { shoot_down, ..config }
}

pub(crate) fn ways() -> Vec<ShootDown> {
    let mut ways = vec![ShootDown::Waiting, ShootDown::best()];
    ways.dedup();
    ways
}

/// How many harvests: a requester that waits for preempted writers is slow where cores are few.
pub(crate) fn rounds(way: ShootDown) -> usize {
    match way {
        ShootDown::Restartable => 100,
        ShootDown::Waiting => 12,
    }
}

/// Runs `meanwhile` while writers store. It gets a function that waits until they have stored since.
/// Says how many words are not in memory, in the end, as they were stored last.
pub(crate) fn while_storing<F: WalkedFormat>(
    board: &Board<F>,
    meanwhile: impl FnOnce(&dyn Fn()),
) -> usize {
    let over = AtomicBool::new(false);
    let stores = AtomicU64::new(0);
    let stored: Vec<Vec<u64>> = std::thread::scope(|scope| {
        // Whatever happens to the test, the writers end.
        let ends = Ends(&over);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let port = board.port().expect("memory");
                let (over, stores) = (&over, &stores);
                scope.spawn(move || write(port, writer, over, stores))
            })
            .collect();
        meanwhile(&|| {
            let before = stores.load(Ordering::Relaxed);
            while stores.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
        });
        drop(ends);
        writers.into_iter().map(|writer| writer.join().expect("it did not panic")).collect()
    });
    let writers = (0..).zip(&stored);
    writers.map(|(writer, stored)| missed(board, writer, stored)).sum()
}

/// Stores as a hart does: what is not the processor's to make is emulated.
pub(crate) fn store<F: WalkedFormat>(
    port: &mut Port<'_, F>,
    at: Gpa,
    width: Width,
    value: u64,
) -> Result<(), BusError> {
    match port.store(at, width, value) {
        Err(BusError::Emulate(_)) => port.emulate_store(BY, at, width, value),
        other => other,
    }
}

/// Whose stores are emulated where no test asks.
pub(crate) const BY: EmulatedStore = EmulatedStore { hart: 3, pc: Gpa::new(BASE) };

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Stores counted values at pages that a xorshift picks, its own word in each. Returns what it stored
/// last to each page.
fn write<F: WalkedFormat>(
    mut port: Port<'_, F>,
    writer: u64,
    over: &AtomicBool,
    stores: &AtomicU64,
) -> Vec<u64> {
    let mut random = 0x9e37_79b9 + writer;
    let mut stored = vec![0; usize::try_from(PAGES).expect("few")];
    for count in 1.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = random % PAGES;
        store(&mut port, at(page, 8 * writer), Width::Double, count).expect("RAM");
        stored[usize::try_from(page).expect("few")] = count;
        stores.fetch_add(1, Ordering::Relaxed);
    }
    stored
}

/// How many pages do not hold what a writer stored last.
fn missed<F: WalkedFormat>(board: &Board<F>, writer: u64, stored: &[u64]) -> usize {
    let found = |page| board.memory().read_obj::<u64>(GuestAddress(at(page, 8 * writer).get()));
    (0..).zip(stored).filter(|&(page, stored)| found(page).expect("RAM") != *stored).count()
}

/// Copies the pages of a round as a consumer does: each stretch is protected before it is read.
fn deliver<F: WalkedFormat>(log: &mut BoardLog<'_, F>, from: &Board<F>, to: &Board<F>) {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    let whole = log.layout().regions()[0].range;
    for word in 0..whole.pages().div_ceil(64) {
        let first = whole.first().checked_add(word * 64).expect("in range");
        let pages = (whole.pages() - word * 64).min(64);
        let stretch = vellum_pte::GfnRange::new(first, pages).expect("in range");
        log.protect(0, stretch, &mut round).expect("the log is on");
        let dirty = round.regions()[0].word(word);
        for bit in (0..64).filter(|bit| dirty >> bit & 1 != 0) {
            let gfn = first.checked_add(bit).expect("in range");
            let mut bytes = [0; PAGE_BYTES];
            read_page(from.memory(), gfn, &mut bytes).expect("RAM");
            write_page(to.memory(), gfn, &bytes).expect("RAM");
        }
    }
}

/// Pages that differ after writers stormed through `rounds` harvests and stopped.
pub(crate) fn lost_pages<F: WalkedFormat>(
    config: &BoardConfig,
    track: Track,
    rounds: usize,
) -> Vec<u64> {
    lost_pages_of(&Board::<F>::new(config).expect("the host has memory"), track, rounds)
}

/// The same on a board that is there.
pub(crate) fn lost_pages_of<F: WalkedFormat>(
    board: &Board<F>,
    track: Track,
    rounds: usize,
) -> Vec<u64> {
    let shadow = Board::<F>::new(&config(ShootDown::best())).expect("the host has memory");
    let mut log = BoardLog::new(board, track);
    log.start().expect("memory");
    let missed = while_storing(board, |wait| {
        for _ in 0..rounds {
            wait();
            deliver(&mut log, board, &shadow);
        }
    });
    assert_eq!(missed, 0, "a store is in memory, logged or not");
    deliver(&mut log, board, &shadow);
    (0..PAGES).filter(|&page| differ(board, &shadow, page)).collect()
}

fn differ<F: WalkedFormat>(one: &Board<F>, other: &Board<F>, page: u64) -> bool {
    let gfn = at(page, 0).gfn();
    let (mut left, mut right) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
    read_page(one.memory(), gfn, &mut left).expect("RAM");
    read_page(other.memory(), gfn, &mut right).expect("RAM");
    left != right
}

pub(crate) fn storm_loses_nothing<F: WalkedFormat>(config: &BoardConfig, track: Track) {
    let lost = lost_pages::<F>(config, track, rounds(config.shoot_down));
    assert!(lost.is_empty(), "{} {track:?} {config:?}: {lost:?}", F::NAME);
}
