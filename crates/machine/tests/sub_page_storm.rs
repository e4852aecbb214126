//! Everything at once under stores to restricted pages: maps, tracking, logs, write-protect-all, huge
//! leaves that are split and come back, pages that move. A permitted store is never lost, and a
//! denied one never made.

#[macro_use]
mod storm;
#[macro_use]
mod forms;

use forms::{activated, restrict_all};
use std::sync::atomic::{AtomicBool, Ordering};
use storm::{PAGES, at, rounds, store, ways, while_storing};
use vellum_machine::Logging;
use vellum_machine::board::{Board, BoardConfig, PageSize, Place, SubPageHardware};
use vellum_machine::bus::{BusError, Width};
use vellum_machine::log::Track;
use vellum_machine::port::ShootDown;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::PageSet;
use vellum_memory::guest::{PAGE_BYTES, read_page};
use vellum_mmu::{Initial, TrackMode};
use vellum_pte::{AddressSpace, GfnRange, SlotId};

/// What writers store to is in sub-page 0; nobody may store to sub-page 1.
const DENIED: u64 = 128;
const MAPS: [u32; 4] = [0b1, 0xffff_fffd, 0x8000_0001, 0b101];
const SLOT: SlotId = SlotId(0);

/// Stores where every map forbids it, all over the board, and says how often one was made.
fn trespass<F: WalkedFormat>(board: &Board<F>, over: &AtomicBool) -> usize {
    let mut port = board.port().expect("memory");
    let mut random: u64 = 0x2545_f491;
    let mut made = 0;
    while !over.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Some begin in sub-page 0, which permits them.
        let there = at(random % PAGES, DENIED - (random >> 40) % 8);
        match store(&mut port, there, Width::Double, u64::MAX) {
            Err(BusError::Denied(_)) => {}
            Ok(()) => made += 1,
            Err(other) => panic!("{other}"),
        }
    }
    made
}

/// One round of what a host and a monitor may do.
fn disturb<F: WalkedFormat>(board: &Board<F>, round: usize, wait: &dyn Fn()) {
    let mmu = board.mmu();
    let page = (round as u64 * 37) % PAGES;
    let gfn = at(page, 0).gfn();
    mmu.track(AddressSpace::NORMAL, gfn, TrackMode::Write).expect("a slot has it");
    let initial = if round.is_multiple_of(2) { Initial::Clean } else { Initial::AllSet };
    mmu.start_log(SLOT, initial).expect("memory");
    restrict_all(board, MAPS[round % MAPS.len()]);
    wait();
    mmu.write_protect_all();
    wait();
    if round.is_multiple_of(3) {
        mmu.split_huge(SLOT, u64::MAX).expect("memory");
    }
    board.move_page(at((page + 7) % PAGES, 0).gfn()).expect("RAM");
    mmu.write_protect_all();
    let mut young = PageSet::new(board.layout());
    mmu.age(SLOT, whole(board), &mut young.regions_mut()[0]).expect("the slot is there");
    wait();
    mmu.stop_log(SLOT).expect("it is on");
    mmu.untrack(AddressSpace::NORMAL, gfn, TrackMode::Write).expect("it is tracked");
}

fn whole<F: WalkedFormat>(board: &Board<F>) -> GfnRange {
    board.layout().regions()[0].range
}

/// Brings all pages home, so that the board's memory shows them.
fn bring_home<F: WalkedFormat>(board: &Board<F>) {
    for page in 0..PAGES {
        let gfn = at(page, 0).gfn();
        if board.move_page(gfn).expect("RAM") == Place::Away {
            board.move_page(gfn).expect("RAM");
        }
    }
}

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Harm {
    /// Words that are not as they were stored last.
    lost: usize,
    /// Denied stores that were made.
    made: usize,
    /// Pages where something of a denied store is.
    touched: usize,
}

fn everything_at_once<F: WalkedFormat>(config: &BoardConfig, rounds: usize) -> Harm {
    let board: Board<F> = activated(config);
    board.mmu().enable_tracking().expect("nothing is confidential");
    restrict_all(&board, MAPS[0]);
    let over = AtomicBool::new(false);
    let (lost, made) = std::thread::scope(|scope| {
        let trespasser = scope.spawn(|| trespass(&board, &over));
        let lost = while_storing(&board, |wait| {
            (0..rounds).for_each(|round| disturb(&board, round, wait));
            // Written words are looked for where the board shows them.
            bring_home(&board);
        });
        over.store(true, Ordering::Relaxed);
        (lost, trespasser.join().expect("it does not panic"))
    });
    let touched = (0..PAGES).filter(|&page| !is_untouched(&board, page)).count();
    Harm { lost, made, touched }
}

fn no_harm<F: WalkedFormat>(
    hardware: SubPageHardware,
    way: ShootDown,
    pages: PageSize,
    track: Track,
) {
    let logging = Logging::of(track);
    let config = BoardConfig { pages, sub_pages: hardware, logging, ..storm::config(way) };
    let harm = everything_at_once::<F>(&config, rounds(way) / 5);
    assert_eq!(harm, Harm::default(), "{} {hardware:?} {way:?} {pages:?} {track:?}", F::NAME);
}

/// Whether nothing of a denied store is on the page, not even a part.
fn is_untouched<F: WalkedFormat>(board: &Board<F>, page: u64) -> bool {
    let mut bytes = [0; PAGE_BYTES];
    read_page(board.memory(), at(page, 0).gfn(), &mut bytes).expect("RAM");
    bytes[120..].iter().all(|&byte| byte == 0)
}

#[test]
fn permitted_stores_are_kept_and_denied_ones_not_made_whatever_else_happens() {
    for way in ways() {
        for track in [Track::PerPage, Track::DirtyBits] {
            on_each_form!(no_harm(way, PageSize::Small, track));
            on_each_form!(no_harm(way, PageSize::Huge2M, track));
        }
    }
}

/// The storm finds what it is for.
#[cfg(feature = "breaks")]
#[test]
fn a_forgotten_shoot_down_does_harm() {
    let broken = Some(vellum_mmu::Break::SkipFlush);
    let config = BoardConfig { broken, ..storm::config(ShootDown::best()) };
    let harm = |_| everything_at_once::<vellum_pte::Ept>(&config, 20) != Harm::default();
    assert!((0..30).any(harm));
}
