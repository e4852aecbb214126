//! Restricted and tracked pages where D bits, a page-modification log or rings hold the writes: a
//! store that its sub-page permits sets D as any other, and one that is emulated has no D to set.

#[macro_use]
mod storm;
#[macro_use]
mod forms;

use forms::{activated, restrict_all};
use storm::{PAGES, at, lost_pages_of, rounds, ways};
use vellum_machine::Logging;
use vellum_machine::board::{Board, BoardConfig, SubPageHardware};
use vellum_machine::log::Track;
use vellum_machine::port::ShootDown;
use vellum_machine::walker::WalkedFormat;
use vellum_mmu::TrackMode;
use vellum_pte::{AddressSpace, Ept, Format};

const TRACKS: [Track; 3] = [Track::DirtyBits, Track::Pml, Track::Ring];

/// `None` where processors of the format do not log so.
fn board<F: WalkedFormat>(
    sub_pages: SubPageHardware,
    way: ShootDown,
    track: Track,
) -> Option<Board<F>> {
    let logging = Logging::of(track);
    let config = BoardConfig { sub_pages, logging, ..storm::config(way) };
    (track != Track::Pml || F::NAME == Ept::NAME).then(|| activated(&config))
}

fn permitted<F: WalkedFormat>(hardware: SubPageHardware, way: ShootDown, track: Track) {
    let Some(board) = board::<F>(hardware, way, track) else { return };
    restrict_all(&board, 1);
    let lost = lost_pages_of(&board, track, rounds(way));
    assert!(lost.is_empty(), "{} {hardware:?} {way:?} {track:?}: {lost:?}", F::NAME);
}

#[test]
fn a_storm_in_permitted_sub_pages_is_logged_in_every_way() {
    for (way, track) in ways().into_iter().flat_map(|way| TRACKS.map(|track| (way, track))) {
        on_each_form!(permitted(way, track));
    }
}

fn mixed<F: WalkedFormat>(hardware: SubPageHardware, way: ShootDown, track: Track) {
    let Some(board) = board::<F>(hardware, way, track) else { return };
    board.mmu().enable_tracking().expect("nothing is confidential");
    restrict_all(&board, 1);
    for page in (0..PAGES).filter(|page| page % 3 != 0) {
        if page % 3 == 1 {
            forms::restrict(&board, page, u32::MAX);
        }
        if page % 2 == 1 {
            let gfn = at(page, 0).gfn();
            board.mmu().track(AddressSpace::NORMAL, gfn, TrackMode::Write).expect("a slot has it");
        }
    }
    let lost = lost_pages_of(&board, track, rounds(way));
    assert!(lost.is_empty(), "{} {hardware:?} {way:?} {track:?}: {lost:?}", F::NAME);
}

#[test]
fn tracked_restricted_and_free_pages_side_by_side_are_logged_in_every_way() {
    for (way, track) in ways().into_iter().flat_map(|way| TRACKS.map(|track| (way, track))) {
        on_each_form!(mixed(way, track));
    }
}

/// The storm finds a library that forgets its shoot-down: D bits in TLBs stay set then.
#[cfg(feature = "breaks")]
#[test]
fn a_forgotten_shoot_down_of_permitted_sub_pages_is_found() {
    for track in TRACKS {
        let config = BoardConfig {
            logging: Logging::of(track),
            broken: Some(vellum_mmu::Break::SkipFlush),
            ..storm::config(ShootDown::best())
        };
        let found = (0..20).any(|_| {
            let board: Board<Ept> = activated(&config);
            restrict_all(&board, 1);
            !lost_pages_of(&board, track, 100).is_empty()
        });
        assert!(found, "{track:?}");
    }
}
