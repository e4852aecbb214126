//! Huge leaves under ports: split while they are stored to, back when the log stops, and never in
//! two sizes at once.

#[macro_use]
mod storm;

use std::sync::atomic::{AtomicBool, Ordering};
use storm::{TRACKS, at, config, rounds, storm_loses_nothing, ways, while_storing};
use vellum_machine::board::{Board, BoardConfig, PageSize};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::{AccessFlags, WalkedFormat};
use vellum_memory::{DirtySource, PageSet};
use vellum_mmu::Initial;
use vellum_pte::{AddressSpace, Ept, GfnRange, SlotId, Stage2};

const HUGE: [PageSize; 2] = [PageSize::Huge2M, PageSize::Huge1G];

/// A board of 3 GiB, none of it touched.
fn large<F: WalkedFormat>(pages: PageSize) -> Board<F> {
    let config = BoardConfig::with_memory(3 << 30).expect("in range");
    Board::new(&BoardConfig { pages, ..config }).expect("the host has memory")
}

fn a_leaf_maps_many_pages<F: WalkedFormat>() {
    for (pages, mapped) in [(PageSize::Huge2M, 512), (PageSize::Huge1G, 512 * 512)] {
        let board = large::<F>(pages);
        let mut port = board.port().expect("memory");
        port.store(at(0, 0), Width::Byte, 1).expect("RAM");
        let frames = board.embedder().frames().live();
        for page in [1, mapped / 2, mapped - 1] {
            assert_eq!(port.load(at(page, 8), Width::Byte), Ok(0));
        }
        assert_eq!(board.embedder().frames().live(), frames, "{} {pages:?}", F::NAME);
        let small = large::<F>(PageSize::Small);
        let mut port = small.port().expect("memory");
        port.store(at(0, 0), Width::Byte, 1).expect("RAM");
        assert!(small.embedder().frames().live() > frames, "small pages need a table more");
    }
}

#[test]
fn a_huge_leaf_maps_what_tables_would() {
    on_each_format!(a_leaf_maps_many_pages());
}

fn logged_page_by_page<F: WalkedFormat>(pages: PageSize, track: Track) {
    let board = large::<F>(pages);
    let mut port = board.port().expect("memory");
    let mut other = board.port().expect("memory");
    let far = 600 * 512;
    port.store(at(0, 0), Width::Byte, 1).expect("RAM");
    other.store(at(far, 0), Width::Byte, 1).expect("RAM");
    let mut log = BoardLog::new(&board, track);
    log.start().expect("memory");
    port.store(at(3, 0), Width::Byte, 1).expect("RAM");
    other.store(at(4, 0), Width::Byte, 1).expect("RAM");
    other.store(at(far + 511, 0), Width::Byte, 1).expect("RAM");
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    let found: Vec<u64> = round.regions()[0].pages().collect();
    assert_eq!(found, [3, 4, far + 511], "{} {pages:?} {track:?}", F::NAME);
    let logging = board.embedder().frames().live();
    log.stop().expect("it is on");
    assert!(board.embedder().frames().live() < logging, "the tables went with the log");
    assert_eq!(port.load(at(far, 0), Width::Byte), Ok(1));
}

#[test]
fn a_logged_store_to_a_huge_leaf_names_its_page_alone() {
    for (pages, track) in HUGE.into_iter().flat_map(|pages| TRACKS.map(|track| (pages, track))) {
        on_each_format!(logged_page_by_page(pages, track));
    }
}

#[test]
fn a_storm_over_huge_leaves_loses_no_page() {
    for way in ways() {
        let config = BoardConfig { pages: PageSize::Huge2M, ..config(way) };
        for track in TRACKS {
            on_each_format!(storm_loses_nothing(&config, track));
        }
    }
}

#[test]
fn a_storm_on_processors_that_set_neither_a_nor_d_loses_no_page() {
    let flags = AccessFlags::BySoftware;
    for pages in [PageSize::Small, PageSize::Huge2M] {
        let config = BoardConfig { pages, flags, ..config(ShootDown::best()) };
        for track in TRACKS {
            storm_loses_nothing::<Ept>(&config, track);
            storm_loses_nothing::<Stage2>(&config, track);
        }
    }
}

/// Logs start and stop, leaves are split and come back, while vCPUs store.
fn sizes_change<F: WalkedFormat>(way: ShootDown) {
    let config = BoardConfig { pages: PageSize::Huge2M, ..config(way) };
    let board = Board::<F>::new(&config).expect("the host has memory");
    let mmu = board.mmu();
    let missed = while_storing(&board, |wait| {
        for round in 0..rounds(way) / 2 {
            let initial = if round % 2 == 0 { Initial::Clean } else { Initial::AllSet };
            mmu.start_log(SlotId(0), initial).expect("memory");
            if round % 3 == 0 {
                mmu.split_huge(SlotId(0), u64::MAX).expect("memory");
            }
            wait();
            mmu.write_protect_all();
            wait();
            mmu.stop_log(SlotId(0)).expect("it is on");
            wait();
        }
    });
    assert_eq!(missed, 0, "{} {way:?}", F::NAME);
}

#[test]
fn leaves_change_their_size_under_running_vcpus() {
    for way in ways() {
        on_each_format!(sizes_change(way));
    }
}

/// The machine stops where the library forgets break-before-make.
#[cfg(feature = "breaks")]
#[test]
fn a_split_without_its_break_is_a_tlb_conflict() {
    for pages in HUGE {
        let config = BoardConfig::with_memory(3 << 30).expect("in range");
        let broken = Some(vellum_mmu::Break::SkipBreak);
        let board = Board::<Stage2>::new(&BoardConfig { pages, broken, ..config });
        let board = board.expect("the host has memory");
        let (mut one, mut other) = (board.port().expect("memory"), board.port().expect("memory"));
        one.store(at(0, 0), Width::Byte, 1).expect("RAM");
        board.mmu().start_log(SlotId(0), Initial::Clean).expect("memory");
        // The leaf refuses stores now, and both have it.
        other.load(at(1, 0), Width::Byte).expect("RAM");
        let conflict = BusError::TlbConflict(at(2, 0));
        assert_eq!(one.store(at(2, 0), Width::Byte, 1), Err(conflict), "split by this fault");
        assert_eq!(other.load(at(2, 0), Width::Byte), Err(conflict), "{pages:?}");
    }
}

/// Leaves that an invalidation takes in the test below.
const TAKEN: u64 = 1000;

/// Whether vCPUs that load in the first leaf meet a conflict while an invalidation takes it: of that
/// leaf's pages only the last one is invalidated, and the shoot-down comes when all leaves are gone.
/// The slot is logged, so the other pages come back as small ones.
fn meets_a_conflict(config: &BoardConfig, rounds: usize) -> bool {
    let board = Board::<Stage2>::new(config).expect("the host has memory");
    let last = |leaf: u64| at(leaf * 512 + 511, 0);
    let taken = GfnRange::new(last(0).gfn(), TAKEN * 512 - 511).expect("in range");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for first in [1, 2] {
            let port = board.port().expect("memory");
            let over = &over;
            scope.spawn(move || load_until(port, first, over));
        }
        let mut port = board.port().expect("memory");
        for _ in 0..rounds {
            for leaf in 0..TAKEN {
                // If it conflicts here too, the others have said so.
                let _ = port.load(last(leaf), Width::Byte);
            }
            board.mmu().start_log(SlotId(0), Initial::Clean).expect("memory");
            std::thread::yield_now();
            drop(board.mmu().invalidate(AddressSpace::NORMAL, taken));
            board.mmu().stop_log(SlotId(0)).expect("it is on");
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        over.swap(true, Ordering::Relaxed)
    })
}

/// Loads in the first leaf until it is over, or it is over since there was a conflict.
fn load_until(mut port: Port<'_, Stage2>, first: u64, over: &AtomicBool) {
    for page in (first..).step_by(7).map(|number| number % 500) {
        if over.load(Ordering::Relaxed) {
            break;
        }
        match port.load(at(page, 0), Width::Byte) {
            Ok(_) => {}
            Err(BusError::TlbConflict(_)) => over.store(true, Ordering::Relaxed),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_leaf_that_an_invalidation_takes_comes_back_after_its_shoot_down() {
    let pages = PageSize::Huge2M;
    let config = BoardConfig::with_memory(TAKEN << 21).expect("in range");
    assert!(!meets_a_conflict(&BoardConfig { pages, ..config }, 100));
}

/// The test above can fail.
#[cfg(feature = "breaks")]
#[test]
fn a_leaf_that_comes_back_too_early_is_a_tlb_conflict() {
    let (pages, broken) = (PageSize::Huge2M, Some(vellum_mmu::Break::MapUnbroken));
    let config = BoardConfig::with_memory(TAKEN << 21).expect("in range");
    assert!(meets_a_conflict(&BoardConfig { pages, broken, ..config }, 10_000));
}
