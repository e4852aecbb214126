//! Boards whose processors log by D bits, whose processors write down which pages they were, and whose
//! ports have dirty rings: does the log hold every write?

#[macro_use]
mod storm;

#[cfg(feature = "breaks")]
use storm::lost_pages;
use storm::{at, config, storm_loses_nothing};
use vellum_machine::Logging;
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, Width};
use vellum_machine::error::BoardError;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::ShootDown;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::{DirtySource, PageSet};
use vellum_mmu::RingSize;
use vellum_pte::{AddressSpace, Ept, Format, Npt, PAGE_SIZE, SlotId, Stage2};

const TRACKS: [Track; 3] = [Track::DirtyBits, Track::Pml, Track::Ring];

fn of(track: Track, config: BoardConfig) -> BoardConfig {
    BoardConfig { logging: Logging::of(track), ..config }
}

/// Formats whose processors log so.
fn has<F: WalkedFormat>(track: Track) -> bool {
    track != Track::Pml || F::NAME == Ept::NAME
}

fn board<F: WalkedFormat>(logging: Logging) -> Board<F> {
    let config = BoardConfig::with_memory(2048 * PAGE_SIZE).expect("in range");
    Board::new(&BoardConfig { logging, ..config }).expect("the host has memory")
}

fn collect<F: WalkedFormat>(log: &mut BoardLog<'_, F>) -> Vec<u64> {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("the log is on");
    round.regions()[0].pages().collect()
}

fn names_what_was_written<F: WalkedFormat>(track: Track) {
    if !has::<F>(track) {
        return;
    }
    let board = board::<F>(Logging::of(track));
    let mut port = board.port().expect("memory");
    let mut write = |page| port.store(at(page, 0), Width::Byte, 1).expect("RAM");
    let mut log = BoardLog::new(&board, track);
    (0..50).for_each(&mut write);
    log.start().expect("memory");
    for _ in 0..3 {
        [1, 700, 2047, 5, 1].into_iter().for_each(&mut write);
        assert_eq!(collect(&mut log), [1, 5, 700, 2047], "{} {track:?}", F::NAME);
        assert!(collect(&mut log).is_empty());
    }
    let mut round = PageSet::new(log.layout());
    round.regions_mut()[0].insert(9);
    log.owe(&round);
    board.mmu().mark_dirty(AddressSpace::NORMAL, at(11, 0).gfn());
    write(1);
    let found = collect(&mut log);
    assert!([1, 9, 11].iter().all(|page| found.contains(page)), "{found:?}");
    log.stop().expect("it is on");
    write(3);
    log.start().expect("memory");
    write(4);
    assert_eq!(collect(&mut log), [4], "what was written while it was off is in no round");
}

#[test]
fn rounds_name_exactly_what_was_written() {
    for track in TRACKS {
        on_each_format!(names_what_was_written(track));
    }
}

fn outlives_its_port<F: WalkedFormat>(track: Track) {
    if !has::<F>(track) {
        return;
    }
    let board = board::<F>(Logging::of(track));
    let mut log = BoardLog::new(&board, track);
    log.start().expect("memory");
    let mut port = board.port().expect("memory");
    port.store(at(6, 0), Width::Byte, 1).expect("RAM");
    drop(port);
    assert_eq!(collect(&mut log), [6]);
}

#[test]
fn what_a_port_has_logged_outlives_it() {
    for track in TRACKS {
        on_each_format!(outlives_its_port(track));
    }
}

/// More pages than a buffer or a ring has entries.
fn overflows<F: WalkedFormat>(track: Track) {
    if !has::<F>(track) {
        return;
    }
    let mut logging = Logging::of(track);
    logging.ring = logging.ring.map(|_| RingSize::new(128, 0).expect("above the reserve"));
    let board = board::<F>(logging);
    let mut log = BoardLog::new(&board, track);
    log.start().expect("memory");
    let mut port = board.port().expect("memory");
    for _ in 0..2 {
        (0..2048).for_each(|page| port.store(at(page, 0), Width::Byte, 1).expect("RAM"));
        assert!(collect(&mut log).into_iter().eq(0..2048), "{} {track:?}", F::NAME);
    }
}

#[test]
fn a_full_buffer_or_ring_loses_nothing_and_stops_nobody_for_good() {
    for track in TRACKS {
        on_each_format!(overflows(track));
    }
}

/// A processor that faults no more hands over a whole page-modification log at once, which takes its port's
/// ring past the soft limit. The port empties the rings before it goes on: nothing goes to the bitmap for
/// want of room.
#[test]
fn a_page_log_that_takes_a_ring_past_its_soft_limit_overflows_nothing() {
    let ring = Some(RingSize::new(1024, 512).expect("above the reserve"));
    let board = board::<Ept>(Logging { ring, ..Logging::of(Track::Pml) });
    let mut log = BoardLog::new(&board, Track::Ring);
    log.start().expect("memory");
    for _ in 0..3 {
        let mut port = board.port().expect("memory");
        (0..2048).for_each(|page| port.store(at(page, 0), Width::Byte, 1).expect("RAM"));
        drop(port);
        let mut bitmap = PageSet::new(log.layout());
        board.mmu().read_dirty(SlotId(0), &mut bitmap.regions_mut()[0]).expect("the log is on");
        assert!(bitmap.is_empty(), "{} pages found no room", bitmap.regions()[0].pages().count());
        assert!(collect(&mut log).into_iter().eq(0..2048));
    }
}

#[test]
fn only_intel_writes_pages_down() {
    let config = of(Track::Pml, config(ShootDown::best()));
    assert!(matches!(Board::<Npt>::new(&config), Err(BoardError::NoPageLog("npt"))));
    assert!(matches!(Board::<Stage2>::new(&config), Err(BoardError::NoPageLog("stage2"))));
    assert!(Board::<Ept>::new(&config).is_ok());
}

/// On a board that logs for one way, harvests of each way that it allows.
fn survives<F: WalkedFormat>(way: ShootDown, track: Track) {
    if !has::<F>(track) {
        return;
    }
    let config = of(track, config(way));
    // Where bitmaps have it all, harvests may also protect what they find, page by page.
    let ways = [track, Track::PerPage, Track::Manual];
    for harvests in ways.into_iter().take(if track == Track::Ring { 1 } else { 3 }) {
        storm_loses_nothing::<F>(&config, harvests);
    }
}

#[test]
fn a_storm_of_stores_loses_no_page() {
    for way in storm::ways() {
        for track in TRACKS {
            on_each_format!(survives(way, track));
        }
    }
}

#[cfg(feature = "breaks")]
#[test]
fn the_storm_finds_each_broken_rule() {
    use vellum_mmu::Break;
    let bugs = [
        // A harvest that closes nothing: the next store to a table comes without a fault.
        (Track::DirtyBits, Track::PerPage, Break::ForgetTouched),
        (Track::DirtyBits, Track::DirtyBits, Break::SkipFlush),
        (Track::Pml, Track::Pml, Break::SkipFlush),
        (Track::Ring, Track::Ring, Break::SkipFlush),
    ];
    for (track, harvests, bug) in bugs {
        let mut config = of(track, config(ShootDown::best()));
        config.broken = Some(bug);
        let found = (0..20).any(|_| !lost_pages::<Ept>(&config, harvests, 100).is_empty());
        assert!(found, "{track:?} {bug:?}");
    }
}
