//! Every failure before the hand-over: the guest runs on, owes its pages, and the next attempt
//! succeeds.

use super::mock::*;
use super::proxy::{Fault, Proxy};
use crate::*;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// As many rounds as there may be.
fn greedy() -> Options {
    Options { downtime: Duration::ZERO, ..Options::default() }
}

fn storing() -> Machine {
    Machine::start(&two_regions(), Habit::Stores(900), Way::Clearing)
}

fn must_be_kept(outcome: Outcome<Machine>) -> Kept<Machine> {
    match outcome {
        Outcome::Kept(kept) => kept,
        other => panic!("not kept: {other:?}"),
    }
}

fn fails_with(machine: Machine, host: &mut Host) -> Kept<Machine> {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let both = attempt(machine, &receiver, host, &greedy(), &mut |_| {});
    assert!(both.destination.is_err(), "the destination discards the guest");
    must_be_kept(both.source)
}

/// The same with something in the log before the first harvests, whatever the vCPU does.
fn fails_while_storing(machine: Machine) -> Kept<Machine> {
    let watched = machine.shared.clone();
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let mut stored = 0;
    let both = attempt(machine, &receiver, &mut Host::default(), &greedy(), &mut |progress| {
        if progress.phase == Phase::Copy && stored < 4 {
            stored += 1;
            watched.store_now(1, 5 + stored, stored);
            watched.store_now(0, 5 + stored, stored);
        }
    });
    must_be_kept(both.source)
}

/// A mistake of others: a migration that fails half-way forgets its dirty bits.
#[test]
fn a_migration_that_fails_half_way_owes_its_dirty_bits() {
    for way in [Way::Clearing, Way::Manual] {
        for plant in [Plant::CollectFails(2), Plant::ProtectFails(2), Plant::SaveFails] {
            let mut machine = Machine::start(&two_regions(), Habit::Stores(900), way);
            machine.log.plant = plant;
            let kept = fails_while_storing(machine);
            assert!(matches!(kept.failure.cause, Cause::Log(_) | Cause::State(_)));
            assert!(kept.guest.taken() > 0, "the test is about pages that were taken");
            must_be_as_before(kept);
        }
    }
}

#[test]
fn a_log_that_does_not_start_changes_nothing() {
    let mut machine = storing();
    machine.log.plant = Plant::StartFails;
    let kept = fails_with(machine, &mut Host::default());
    assert_eq!(kept.failure.phase, Phase::Start);
    assert_eq!(kept.guest.resumes(), 0, "it was never paused");
    must_be_as_before(kept);
}

#[test]
fn a_first_harvest_that_fails_leaves_the_guest_running() {
    for plant in [Plant::CollectFails(1), Plant::ProtectFails(1)] {
        let mut machine = storing();
        machine.log.plant = plant;
        let kept = fails_while_storing(machine);
        assert!(matches!(kept.failure.cause, Cause::Log(_)));
        must_be_as_before(kept);
    }
}

#[test]
fn a_log_that_does_not_stop_is_told() {
    let mut machine = storing();
    machine.log.plant = Plant::StopFails;
    let options = greedy();
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let both = attempt(machine, &receiver, &mut Host::default(), &options, &mut |progress| {
        if progress.phase == Phase::Copy {
            options.cancel.cancel();
        }
    });
    let kept = must_be_kept(both.source);
    assert!(kept.log_left_on.is_some());
    must_be_as_before(kept);
}

#[test]
fn a_refused_guest_runs_on_and_hears_why() {
    for kind in [RefusalKind::OutOfMemory, RefusalKind::Machine, RefusalKind::Layout] {
        let refusal = Refusal::new(kind, "no room for 20 MiB");
        let mut host = Host { refusal: Some(refusal.clone()), ..Host::default() };
        let kept = fails_with(storing(), &mut host);
        assert_eq!(kept.failure.phase, Phase::Greet);
        assert!(matches!(&kept.failure.cause, Cause::Refused(told) if *told == refusal));
        assert_eq!(kept.guest.collects(), 0, "its log was never on");
        must_be_as_before(kept);
    }
}

#[test]
fn a_state_that_cannot_be_restored_stays_here() {
    let mut host = Host { restore_fails: true, ..Host::default() };
    let kept = fails_with(storing(), &mut host);
    assert_eq!(kept.failure.phase, Phase::StopAndCopy);
    assert!(matches!(kept.failure.cause, Cause::Aborted(_)), "{:?}", kept.failure);
    assert_eq!(kept.guest.resumes(), 1);
    must_be_as_before(kept);
}

#[test]
fn nobody_to_connect_to_is_named() {
    let outcome = migrate(storing(), &socket(), &Options::default(), &mut |_| {});
    let kept = must_be_kept(outcome);
    assert_eq!(kept.failure.phase, Phase::Connect);
    assert!(matches!(kept.failure.cause, Cause::Connect(ConnectError::Nobody(_))));
    must_be_as_before(kept);
}

#[test]
fn cancelling_in_any_phase_before_the_hand_over_keeps_the_guest() {
    let phases = [
        Phase::Connect,
        Phase::Greet,
        Phase::Start,
        Phase::Copy,
        Phase::StopAndCopy,
        Phase::Verify,
    ];
    for phase in phases {
        let options = greedy();
        let receiver = Receiver::bind(&socket()).expect("a fresh address");
        let mut host = Host::default();
        let both = attempt(storing(), &receiver, &mut host, &options, &mut |progress| {
            if progress.phase == phase {
                options.cancel.cancel();
            }
        });
        assert!(both.destination.is_err(), "{phase}");
        let kept = must_be_kept(both.source);
        assert!(matches!(kept.failure.cause, Cause::Cancelled), "{phase}: {:?}", kept.failure);
        must_be_as_before(kept);
    }
}

#[test]
fn cancelling_after_the_hand_over_leaves_one_guest_running() {
    let options = greedy();
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let mut host = Host::default();
    let both = attempt(storing(), &receiver, &mut host, &options, &mut |progress| {
        if progress.phase == Phase::HandOver {
            options.cancel.cancel();
        }
    });
    let Ok(Served::Arrived(received)) = both.destination else { panic!("not arrived") };
    let _answering = receiver.keep_answering().expect("a thread");
    let moved = match both.source {
        Outcome::Unknown(unknown) => unknown.ask(&Cancel::new()),
        other => other,
    };
    let Outcome::Moved(moved) = moved else { panic!("not moved: {moved:?}") };
    assert!(received.guest.is_running() && !moved.guest.is_running());
}

#[test]
fn a_destination_cancelled_when_it_takes_the_guest_says_that_it_runs() {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let limits = Limits::default();
    let (source, destination) = thread::scope(|scope| {
        let destination = scope.spawn(|| {
            receiver.serve_one(&mut Host::default(), &limits, &mut |progress| {
                if progress.phase == Phase::HandOver {
                    limits.cancel.cancel();
                }
            })
        });
        let source = migrate(storing(), receiver.address(), &greedy(), &mut |_| {});
        (source, destination.join().expect("no panic"))
    });
    let Ok(Served::Arrived(received)) = destination else { panic!("not arrived") };
    assert!(received.guest.is_running());
    assert!(matches!(source, Outcome::Moved(_)), "it is not known: {source:?}");
}

#[test]
fn a_destination_that_panics_is_not_waited_for() {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let limits = Limits::default();
    let kept = thread::scope(|scope| {
        let destination = scope.spawn(|| {
            receiver.serve_one(&mut Host::default(), &limits, &mut |progress| {
                assert!(progress.phase != Phase::Copy, "on purpose");
            })
        });
        let source = migrate(storing(), receiver.address(), &greedy(), &mut |_| {});
        destination.join().expect_err("it panics");
        must_be_kept(source)
    });
    must_be_as_before(kept);
}

#[test]
fn a_stalled_destination_can_be_cancelled() {
    for bytes in [0, 10, 16, 100, 500, 20_000] {
        let receiver = Receiver::bind(&socket()).expect("a fresh address");
        let proxy = Proxy::new(receiver.address(), Fault::StallForward(bytes));
        let options = greedy();
        let limits = Limits::default();
        let machine = storing();
        (0..5000).for_each(|page| machine.fill(1, page, 0x11));
        let (source, destination) = thread::scope(|scope| {
            let destination =
                scope.spawn(|| receiver.serve_one(&mut Host::default(), &limits, &mut |_| {}));
            scope.spawn(|| {
                while !proxy.counts.stalled.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                options.cancel.cancel();
            });
            let source = migrate(machine, &proxy.address, &options, &mut |_| {});
            limits.cancel.cancel();
            (source, destination.join().expect("no panic"))
        });
        assert!(destination.is_err());
        let kept = must_be_kept(source);
        assert!(matches!(kept.failure.cause, Cause::Cancelled), "{:?}", kept.failure);
        must_be_as_before(kept);
    }
}

#[test]
fn a_source_that_is_silent_for_too_long_is_given_up() {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let proxy = Proxy::new(receiver.address(), Fault::StallForward(200));
    let limits = Limits { patience: Duration::from_millis(200), ..Limits::default() };
    let options = Options { patience: Duration::from_millis(200), ..Options::default() };
    let (source, destination) = thread::scope(|scope| {
        let destination =
            scope.spawn(|| receiver.serve_one(&mut Host::default(), &limits, &mut |_| {}));
        let source = migrate(storing(), &proxy.address, &options, &mut |_| {});
        (source, destination.join().expect("no panic"))
    });
    // Whoever loses patience first, the other sees it leave.
    assert!(destination.is_err());
    must_be_as_before(must_be_kept(source));
}

#[test]
fn a_lost_page_is_found_and_the_guest_is_not_handed_over() {
    let mut machine = storing();
    machine.log.plant = Plant::Loses(700);
    let watched = machine.shared.clone();
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let mut host = Host::default();
    let mut stored = false;
    let both = attempt(machine, &receiver, &mut host, &Options::default(), &mut |progress| {
        // Once, before it is paused.
        if progress.phase == Phase::StopAndCopy && !stored {
            stored = true;
            watched.store_now(1, 700, 0xdead_beef);
        }
    });
    let kept = must_be_kept(both.source);
    let found = Difference { slot: vellum_memory::SlotId(1), first: 512, pages: 512 };
    assert_eq!(kept.report.verdict, Verdict::Different(found));
    assert_eq!(kept.failure.phase, Phase::Verify);
    let differs = |region: &&RegionDigest| region.source != region.destination;
    let slots: Vec<_> = kept.report.digests.iter().filter(differs).map(|r| r.slot.0).collect();
    assert_eq!(slots, [1]);
    let failure = both.destination.expect_err("it never ran there");
    assert!(matches!(failure.cause, Cause::Aborted(why) if why.kind == RefusalKind::Different));
    must_be_as_before(kept);
}

#[test]
fn the_wire_may_break_after_any_byte() {
    let regions = layout(&[(0, 0x10, 65), (1, 0x1000, 70)]);
    let whole = break_at(&regions, Fault::Never);
    let near_ends =
        |all: u64| (0..all).filter(move |&at| at < 130 || at % 997 == 0 || at + 90 > all);
    let faults: Vec<_> =
        near_ends(whole.0).map(Fault::CutForward).chain((0..whole.1).map(Fault::CutBack)).collect();
    // Each mostly waits.
    thread::scope(|scope| {
        for share in faults.chunks(faults.len().div_ceil(8)) {
            scope.spawn(|| {
                share.iter().for_each(|&fault| {
                    break_at(&regions, fault);
                })
            });
        }
    });
}

/// One attempt over a wire that breaks: exactly one guest runs when it is over. Returns the bytes
/// that went either way.
fn break_at(regions: &vellum_memory::Layout, fault: Fault) -> (u64, u64) {
    let machine = Machine::start(regions, Habit::Idle, Way::Clearing);
    (0..70).step_by(9).for_each(|page| machine.fill(1, page, 3));
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let proxy = Proxy::new(receiver.address(), fault);
    let limits = Limits::default();
    let (source, destination) = thread::scope(|scope| {
        let mut host = Host { before: 0xcc, ..Host::default() };
        let destination = scope.spawn({
            let (receiver, limits) = (&receiver, &limits);
            move || receiver.serve_one(&mut host, limits, &mut |_| {})
        });
        let source = migrate(machine, &proxy.address, &Options::default(), &mut |_| {});
        if matches!(source, Outcome::Kept(_)) {
            limits.cancel.cancel();
        }
        (source, destination.join().expect("no panic"))
    });
    let _answering = receiver.keep_answering().expect("a thread");
    let settled = match source {
        Outcome::Unknown(unknown) => {
            assert_ne!(fault, Fault::Never);
            assert_eq!(unknown.failure().phase, Phase::HandOver);
            unknown.ask(&Cancel::new())
        }
        other => other,
    };
    match (settled, destination) {
        (Outcome::Moved(moved), Ok(Served::Arrived(received))) => {
            assert!(!moved.guest.is_running() && received.guest.is_running(), "{fault:?}");
        }
        (Outcome::Kept(kept), Err(_)) => {
            assert!(kept.guest.is_running() && kept.guest.owes_all_it_gave(), "{fault:?}");
            assert!(!kept.guest.is_logged());
            if matches!(fault, Fault::CutForward(at) if at % 7 == 0) {
                must_be_as_before(kept);
            }
        }
        (settled, destination) => panic!("{fault:?}: {settled:?} {destination:?}"),
    }
    let counts = &proxy.counts;
    (counts.forward.load(Ordering::Relaxed), counts.back.load(Ordering::Relaxed))
}
