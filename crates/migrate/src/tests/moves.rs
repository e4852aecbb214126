//! Migrations that succeed.

use super::mock::*;
use crate::*;
use std::time::Duration;

#[test]
fn a_storing_guest_arrives_whole() {
    for way in [Way::Clearing, Way::Manual] {
        let machine = Machine::start(&two_regions(), Habit::Stores(900), way);
        (0..300).for_each(|page| machine.fill(1, page * 7, 0x5a));
        let (moved, arrived) = must_move(machine, &mut Host { before: 0xaa, ..Host::default() });
        assert_eq!(moved.report.verdict, Verdict::Same);
        assert!(!moved.guest.is_running() && arrived.is_running(), "exactly one runs");
        arrived.await_steps();
        assert_eq!(arrived.resumes(), 1);
        let digests = &moved.report.digests;
        assert_eq!(digests.len(), 2);
        assert!(digests.iter().all(|region| region.source == region.destination));
    }
}

#[test]
fn an_idle_guest_arrives_byte_for_byte() {
    let machine = Machine::start(&two_regions(), Habit::Idle, Way::Clearing);
    (0..67).step_by(3).for_each(|page| machine.fill(0, page, page as u8 + 1));
    (0..5000).step_by(11).for_each(|page| machine.fill(1, page, 0x77));
    let (moved, arrived) = must_move(machine, &mut Host { before: 0xee, ..Host::default() });
    arrived.freeze();
    // The destination's vCPU stores to the first 40 pages of each region once it runs.
    let differs = moved.guest.differs_from(&arrived).is_some_and(|(_, page)| page >= 40);
    assert!(!differs, "beyond its own stores");
    assert_eq!(moved.report.verdict, Verdict::Same);
    let first = moved.report.rounds[0];
    assert_eq!(first.dirty, 5067);
    assert_eq!(first.sent, 23 + 455);
    assert_eq!(first.zero, 5067 - first.sent);
    assert_eq!(moved.report.stop, Some(Stop::Fits));
    assert_eq!(moved.report.pages, 5067);
    assert!(moved.report.first_harvest.is_some() && moved.report.downtime.is_some());
}

/// A mistake of others: pages of zeros are skipped although the destination held data.
#[test]
fn zero_pages_are_honoured_where_the_destination_held_data() {
    let machine = Machine::start(&two_regions(), Habit::Idle, Way::Clearing);
    machine.fill(1, 4999, 9);
    let (_, arrived) = must_move(machine, &mut Host { before: 0xff, ..Host::default() });
    arrived.freeze();
    assert!((40..4999).all(|page| arrived.page(1, page) == [0; 4096]));
    assert!((40..67).all(|page| arrived.page(0, page) == [0; 4096]));
    assert_eq!(arrived.page(1, 4999), [9; 4096]);
}

/// The same where the destination began with zeros and came to hold data by an earlier round.
#[test]
fn a_page_that_becomes_zero_again_is_zero_there_too() {
    let machine = Machine::start(&two_regions(), Habit::Idle, Way::Clearing);
    let written = [(0, 3), (0, 66), (1, 0), (1, 64), (1, 4999)];
    written.iter().for_each(|&(region, page)| machine.fill(region, page, 7));
    let watched = machine.shared.clone();
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let mut cleared = false;
    let mut host = Host::default();
    let both = attempt(machine, &receiver, &mut host, &Options::default(), &mut |progress| {
        if progress.phase == Phase::Copy && progress.remaining == 0 && !cleared {
            cleared = true;
            written.iter().for_each(|&(region, page)| watched.clear_now(region, page));
        }
    });
    let Outcome::Moved(moved) = both.source else { panic!("not moved: {:?}", both.source) };
    assert_eq!(moved.report.verdict, Verdict::Same);
    let zero: u64 = moved.report.rounds[1..].iter().map(|round| round.zero).sum();
    assert_eq!(zero, 5);
}

/// A mistake of others: a slot that ends clean shifts the bitmap of the next.
#[test]
fn a_slot_that_ends_clean_does_not_shift_the_next() {
    for way in [Way::Clearing, Way::Manual] {
        let regions = layout(&[(0, 0x10, 65), (1, 0x1000, 130), (2, 0x2000, 3), (3, 0x3000, 70)]);
        let mut machine = Machine::start(&regions, Habit::Idle, way);
        // Only the last slot is stored to while it is copied; those before it end clean.
        machine.log.plant = Plant::StoresDuringProtect(69);
        let mut stored = 0;
        let watched = machine.shared.clone();
        let receiver = Receiver::bind(&socket()).expect("a fresh address");
        let mut host = Host::default();
        let options = Options { downtime: Duration::ZERO, ..Options::default() };
        let both = attempt(machine, &receiver, &mut host, &options, &mut |progress| {
            if progress.phase == Phase::Copy && stored == 0 {
                stored = 1;
                watched.store_now(3, 68, 0xfeed);
            }
        });
        let Outcome::Moved(moved) = both.source else { panic!("not moved: {:?}", both.source) };
        assert_eq!(moved.report.verdict, Verdict::Same);
        assert!(moved.report.rounds[1..].iter().any(|round| round.dirty > 0));
    }
}

/// A mistake of others: a bitmap is cleared for more than was fetched. What becomes dirty between
/// `collect` and `protect` is cleared by `protect`, so it must be sent in this round.
#[test]
fn what_is_cleared_is_what_was_fetched() {
    for page in [0, 63, 64, 4095, 4096, 4999] {
        for way in [Way::Clearing, Way::Manual] {
            let mut machine = Machine::start(&two_regions(), Habit::Stores(5000), way);
            machine.log.plant = Plant::StoresDuringProtect(page);
            let (moved, _) = must_move_within(machine, &mut Host::default(), Duration::ZERO);
            assert_eq!(moved.report.verdict, Verdict::Same, "page {page} {way:?}");
        }
    }
}

#[test]
fn a_page_that_joins_a_stretch_already_sent_is_sent_too() {
    for way in [Way::Clearing, Way::Manual] {
        let mut machine = Machine::start(&two_regions(), Habit::Stores(5000), way);
        machine.log.plant = Plant::AddsBehind(66);
        let (moved, _) = must_move_within(machine, &mut Host::default(), Duration::ZERO);
        assert_eq!(moved.report.verdict, Verdict::Same);
    }
}

#[test]
fn a_guest_that_outruns_the_wire_is_stopped_and_the_miss_is_said() {
    let machine = Machine::start(&two_regions(), Habit::Stores(5000), Way::Clearing);
    let watched = machine.shared.clone();
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let options = Options { downtime: Duration::ZERO, ..Options::default() };
    // However slow its vCPU is on this machine: the same 200 pages are dirty in every round.
    let both = attempt(machine, &receiver, &mut Host::default(), &options, &mut |progress| {
        if progress.phase == Phase::Copy && progress.remaining == 0 {
            let value = u64::from(progress.round);
            (0..200).for_each(|page| watched.store_now(1, page * 25, value));
        }
    });
    let Outcome::Moved(moved) = both.source else { panic!("not moved: {:?}", both.source) };
    assert!(matches!(moved.report.stop, Some(Stop::NoProgress | Stop::TooManyRounds)));
    assert!(moved.report.missed_downtime);
    assert!(moved.report.rounds.len() <= 31);
    assert_eq!(moved.report.verdict, Verdict::Same);
}

#[test]
fn a_guest_moves_over_tcp_and_without_comparing() {
    let machine = Machine::start(&two_regions(), Habit::Stores(300), Way::Clearing);
    let receiver = Receiver::bind(&"tcp:127.0.0.1:0".parse().expect("an address"))
        .expect("the system chooses a port");
    let options = Options { verify: Verify::Skip, ..Options::default() };
    let both = attempt(machine, &receiver, &mut Host::default(), &options, &mut |_| {});
    let Outcome::Moved(moved) = both.source else { panic!("not moved: {:?}", both.source) };
    let Ok(Served::Arrived(received)) = both.destination else { panic!("not arrived") };
    assert_eq!(moved.report.verdict, Verdict::NotCompared);
    assert!(received.guest.is_running() && received.unacknowledged.is_none());
}

#[test]
fn a_guest_moves_on_and_back() {
    let machine = Machine::start(&two_regions(), Habit::Stores(500), Way::Manual);
    let (_, there) = must_move(machine, &mut Host::default());
    let (moved, back) = must_move(there, &mut Host::default());
    assert_eq!(moved.report.verdict, Verdict::Same);
    back.await_steps();
}

#[test]
fn progress_tells_every_phase_in_order() {
    let machine = Machine::start(&two_regions(), Habit::Stores(500), Way::Clearing);
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let mut seen = Vec::new();
    let mut host = Host::default();
    let both = attempt(machine, &receiver, &mut host, &Options::default(), &mut |progress| {
        seen.push(progress.phase);
    });
    assert!(matches!(both.source, Outcome::Moved(_)));
    assert!(seen.is_sorted());
    seen.dedup();
    assert_eq!(seen.len(), 7);
}
