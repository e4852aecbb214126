//! Every backend, held to both oracles; and with each deliberate bug, an oracle objects.

use vellum_conformance::backend::Backend;
use vellum_conformance::breaking::{Broken, Wrong};
use vellum_conformance::oracle::{Length, running, stopped};
use vellum_conformance::port_guest::Ports;
use vellum_conformance::rv64_guest::Harts;
use vellum_conformance::trial::{LENGTH, Oracle, Search, VCPUS, passes};
use vellum_machine::PageSize;
use vellum_machine::board::SubPageHardware;
use vellum_machine::log::Track;
use vellum_machine::port::ShootDown;
use vellum_mmu::Break;
use vellum_pte::{Ept, Npt, Stage2};

const TRACKS: [Track; 3] = [Track::PerPage, Track::ProtectAll, Track::Manual];

#[test]
fn ports_pass_the_stopped_oracle() {
    for track in TRACKS {
        passes(stopped, &Ports::<Ept>::new(track));
        passes(stopped, &Ports::<Npt>::new(track));
        passes(stopped, &Ports::<Stage2>::new(track));
    }
}

#[test]
fn ports_pass_the_running_oracle() {
    for track in TRACKS {
        passes(running, &Ports::<Ept>::new(track));
        passes(running, &Ports::<Npt>::new(track));
        passes(running, &Ports::<Stage2>::new(track));
    }
}

#[test]
fn ports_over_huge_pages_pass_the_stopped_oracle() {
    for track in TRACKS {
        passes(stopped, &Ports::<Ept>::new(track).over(PageSize::Huge1G));
        passes(stopped, &Ports::<Npt>::new(track).over(PageSize::Huge2M));
        passes(stopped, &Ports::<Stage2>::new(track).over(PageSize::Huge1G));
    }
}

#[test]
fn ports_over_huge_pages_pass_the_running_oracle() {
    for track in TRACKS {
        passes(running, &Ports::<Ept>::new(track).over(PageSize::Huge2M));
        passes(running, &Ports::<Npt>::new(track).over(PageSize::Huge1G));
        passes(running, &Ports::<Stage2>::new(track).over(PageSize::Huge2M));
    }
}

#[test]
fn ports_that_wait_out_accesses_pass_both_oracles() {
    for track in TRACKS {
        passes(stopped, &Ports::<Ept>::new(track).shot_down_by(ShootDown::Waiting));
        passes(running, &Ports::<Stage2>::new(track).shot_down_by(ShootDown::Waiting));
    }
}

#[test]
fn rv64_guests_pass_the_stopped_oracle() {
    for track in TRACKS {
        passes(stopped, &Harts::<Ept>::new(track));
        passes(stopped, &Harts::<Npt>::new(track).over(PageSize::Huge2M));
        passes(stopped, &Harts::<Stage2>::new(track));
    }
}

#[test]
fn rv64_guests_pass_the_running_oracle() {
    for track in TRACKS {
        passes(running, &Harts::<Ept>::new(track).over(PageSize::Huge2M));
        passes(running, &Harts::<Npt>::new(track));
        passes(running, &Harts::<Stage2>::new(track));
    }
}

/// EPT with tables of sub-pages and without, and the formats that have none.
fn restricted_pass(
    ept: impl Fn(Ports<Ept>),
    npt: impl Fn(Ports<Npt>),
    stage2: impl Fn(Ports<Stage2>),
) {
    for track in TRACKS {
        ept(Ports::new(track).restricted(SubPageHardware::Present));
    }
    ept(Ports::new(Track::ProtectAll).restricted(SubPageHardware::Absent));
    npt(Ports::new(Track::Manual).restricted(SubPageHardware::Present));
    stage2(Ports::new(Track::ProtectAll).restricted(SubPageHardware::Present));
}

#[test]
fn ports_with_tracked_and_restricted_pages_pass_the_stopped_oracle() {
    restricted_pass(
        |ports| passes(stopped, &ports),
        |ports| passes(stopped, &ports.over(PageSize::Huge2M)),
        |ports| passes(stopped, &ports),
    );
}

#[test]
fn ports_with_tracked_and_restricted_pages_pass_the_running_oracle() {
    restricted_pass(
        |ports| passes(running, &ports.over(PageSize::Huge2M)),
        |ports| passes(running, &ports),
        |ports| passes(running, &ports.over(PageSize::Huge1G)),
    );
}

#[test]
fn rv64_guests_with_tracked_and_restricted_pages_pass_both_oracles() {
    for track in TRACKS {
        let ept = Harts::<Ept>::new(track).restricted(SubPageHardware::Present);
        passes(stopped, &ept);
    }
    let ept = Harts::<Ept>::new(Track::ProtectAll).restricted(SubPageHardware::Present);
    passes(running, &ept.over(PageSize::Huge2M));
    let npt = Harts::<Npt>::new(Track::PerPage).restricted(SubPageHardware::Present);
    passes(running, &npt.over(PageSize::Huge2M));
    let stage2 = Harts::<Stage2>::new(Track::ProtectAll).restricted(SubPageHardware::Present);
    passes(stopped, &stage2);
}

fn pass_both<B: Backend>(backend: &B) {
    passes(stopped, backend);
    passes(running, backend);
}

#[test]
fn ports_that_log_by_d_bits_or_rings_pass_both_oracles() {
    const SPP: SubPageHardware = SubPageHardware::Present;
    for track in [Track::DirtyBits, Track::Ring] {
        pass_both(&Ports::<Ept>::new(track).restricted(SPP));
        pass_both(&Ports::<Npt>::new(track).over(PageSize::Huge2M));
        pass_both(&Ports::<Stage2>::new(track).restricted(SPP));
    }
    pass_both(&Ports::<Ept>::new(Track::Pml).restricted(SPP));
    pass_both(&Ports::<Ept>::new(Track::Pml).over(PageSize::Huge2M));
}

#[test]
fn rv64_guests_that_log_by_d_bits_or_rings_pass_both_oracles() {
    const SPP: SubPageHardware = SubPageHardware::Present;
    pass_both(&Harts::<Ept>::new(Track::Pml).restricted(SPP));
    pass_both(&Harts::<Npt>::new(Track::DirtyBits).restricted(SPP));
    pass_both(&Harts::<Stage2>::new(Track::Ring).restricted(SPP));
}

/// How many seeds an oracle gets to find a bug.
const TRIES: u64 = 40;

fn is_found<B: Backend>(oracle: Oracle<B>, backend: &B, vcpus: usize) {
    is_found_in(LENGTH, oracle, backend, vcpus);
}

fn is_found_in<B: Backend>(length: Length, oracle: Oracle<B>, backend: &B, vcpus: usize) {
    Search { tries: TRIES, vcpus, length }.finds(oracle, backend);
}

#[test]
fn both_oracles_find_a_skipped_flush() {
    for track in TRACKS {
        let ports = Ports::<Ept>::new(track).broken(Break::SkipFlush);
        is_found(stopped, &ports, 1);
        is_found(running, &ports, 1);
        is_found(stopped, &Harts::<Stage2>::new(track).broken(Break::SkipFlush), 4);
    }
}

#[test]
fn both_oracles_find_a_dropped_bit() {
    for track in [Track::PerPage, Track::ProtectAll] {
        let ports = Ports::<Npt>::new(track).broken(Break::DropBit);
        is_found(stopped, &ports, 1);
        is_found(running, &ports, 4);
        is_found(stopped, &Harts::<Ept>::new(track).broken(Break::DropBit), 1);
    }
}

#[test]
fn both_oracles_find_a_mark_that_comes_too_early() {
    let ports = Ports::<Ept>::new(Track::PerPage).broken(Break::MarkEarly);
    is_found(stopped, &ports, 4);
    is_found(running, &ports, 4);
    let harts = Harts::<Npt>::new(Track::PerPage).broken(Break::MarkEarly);
    is_found(stopped, &harts, 4);
}

#[test]
fn both_oracles_find_a_settle_that_comes_too_late() {
    // Each push-down holds its window open: short iterations make few of them.
    let short = Length { iterations: 8, stores: 100 };
    let ports = Ports::<Ept>::new(Track::ProtectAll).broken(Break::LateSettle);
    is_found_in(short, stopped, &ports, 4);
    is_found_in(short, running, &ports, 4);
    let harts = Harts::<Npt>::new(Track::ProtectAll).broken(Break::LateSettle);
    is_found_in(short, stopped, &harts, 4);
}

#[test]
fn both_oracles_find_a_clear_of_more_than_was_fetched() {
    let ports = Ports::<Npt>::new(Track::Manual).broken(Break::ClearMore);
    is_found(stopped, &ports, 1);
    is_found(running, &ports, 4);
    is_found(stopped, &Harts::<Ept>::new(Track::Manual).broken(Break::ClearMore), 4);
}

/// The stores that a map permits go on through sub-page tables that write-protect-all left open.
#[test]
fn both_oracles_find_permitted_stores_that_are_not_logged() {
    for bug in [Break::OpenSubPageRoot, Break::OpenOverLeaves] {
        let ports = Ports::<Ept>::new(Track::ProtectAll).restricted(SubPageHardware::Present);
        is_found(stopped, &ports.broken(bug), 1);
        is_found(running, &ports.broken(bug), 1);
        let harts = Harts::<Ept>::new(Track::ProtectAll).restricted(SubPageHardware::Present);
        is_found(stopped, &harts.broken(bug), 4);
    }
}

/// The harts' fetches are the reads. One hart: another's store may open the path, settled, before it.
#[test]
fn both_oracles_find_a_parked_table_that_is_linked_unsettled() {
    let harts = Harts::<Stage2>::new(Track::ProtectAll).broken(Break::ReadLifts);
    is_found(stopped, &harts, 1);
    is_found(running, &harts, 1);
}

#[test]
fn both_oracles_find_a_split_into_storable_leaves() {
    let ports = Ports::<Ept>::new(Track::PerPage).over(PageSize::Huge2M).broken(Break::SplitLifts);
    is_found(stopped, &ports, 1);
    is_found(running, &ports, 4);
}

/// What is lost at the very end no later iteration can miss.
#[test]
fn the_running_oracle_finds_a_log_that_names_nothing_in_the_last_iteration() {
    let rounds = usize::try_from(LENGTH.iterations).expect("few");
    let wrong = Wrong::FallsSilent(rounds - 1);
    let backend = Broken { sound: Ports::<Ept>::new(Track::PerPage), wrong };
    for vcpus in VCPUS {
        is_found(running, &backend, vcpus);
    }
}

/// These guests keep no page for themselves, so a log has none to spare.
#[test]
fn both_oracles_find_a_first_page_that_nobody_writes() {
    let backend = Broken { sound: Ports::<Npt>::new(Track::Manual), wrong: Wrong::NamesTheFirst };
    is_found(stopped, &backend, 1);
    is_found(running, &backend, 4);
}
