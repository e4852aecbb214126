//! When the last words are lost: never two guests, and a way to find out.

use super::mock::*;
use super::proxy::{Fault, Proxy};
use crate::address::Stream;
use crate::link::Link;
use crate::wire::{Hello, Message, Query};
use crate::*;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

fn regions() -> vellum_memory::Layout {
    layout(&[(0, 0x10, 65), (1, 0x1000, 70)])
}

fn idle() -> Machine {
    let machine = Machine::start(&regions(), Habit::Idle, Way::Clearing);
    machine.fill(1, 69, 0x42);
    machine
}

/// A wire between a source and a receiver, and what one attempt over it ends in.
struct Trial {
    proxy: Proxy,
    receiver: Receiver,
    source: Outcome<Machine>,
    destination: Result<Served<Machine>, Failure>,
}

fn trial(fault: Fault) -> Trial {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let proxy = Proxy::new(receiver.address(), fault);
    let limits = Limits::default();
    let (source, destination) = thread::scope(|scope| {
        let destination =
            scope.spawn(|| receiver.serve_one(&mut Host::default(), &limits, &mut |_| {}));
        let source = migrate(idle(), &proxy.address, &Options::default(), &mut |_| {});
        (source, destination.join().expect("no panic"))
    });
    Trial { proxy, receiver, source, destination }
}

/// An attempt whose last message of one direction is lost.
fn lost(which: fn(u64, u64) -> Fault) -> (Trial, Unknown<Machine>) {
    let whole = trial(Fault::Never);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert!(matches!(whole.source, Outcome::Moved(_)));
    let counts = &whole.proxy.counts;
    let mut trial = trial(which(count(&counts.forward), count(&counts.back)));
    let source = std::mem::replace(&mut trial.source, whole.source);
    let Outcome::Unknown(unknown) = source else { panic!("not unknown: {source:?}") };
    (trial, unknown)
}

/// `Running` does not come back.
fn lost_acknowledgement() -> (Trial, Unknown<Machine>) {
    // Where the wire is cut is counted on another attempt. Should this one have said a little more
    // before, it is cut before `HandOver` arrives: that is the other case.
    let arrived = |trial: &Trial| matches!(trial.destination, Ok(Served::Arrived(_)));
    let mut attempts = std::iter::repeat_with(|| lost(|_, back| Fault::CutBack(back - 1)));
    attempts.find(|(trial, _)| arrived(trial)).expect("there is no end of attempts")
}

/// `HandOver` does not arrive.
fn lost_hand_over() -> (Trial, Unknown<Machine>) {
    lost(|forward, _| Fault::CutForward(forward - 1))
}

#[test]
fn a_lost_acknowledgement_is_unknown_and_the_answer_is_taken() {
    let (trial, unknown) = lost_acknowledgement();
    let Ok(Served::Arrived(received)) = trial.destination else { panic!("not arrived") };
    assert!(received.guest.is_running());
    assert_eq!(unknown.report().verdict, Verdict::Same);
    // The receiver is there, and answers.
    let Outcome::Moved(moved) = unknown.ask(&Cancel::new()) else { panic!("not moved") };
    assert!(!moved.guest.is_running(), "never two guests");
    assert!(!moved.guest.is_logged());
}

#[test]
fn a_lost_hand_over_is_unknown_and_the_answer_is_never() {
    let (trial, unknown) = lost_hand_over();
    assert!(trial.destination.is_err(), "it was discarded there");
    let _answering = trial.receiver.keep_answering().expect("a thread");
    let Outcome::Kept(kept) = unknown.ask(&Cancel::new()) else { panic!("not kept") };
    must_be_as_before(kept);
}

#[test]
fn an_unknown_guest_stays_paused_until_a_person_decides() {
    let (trial, unknown) = lost_acknowledgement();
    // The person has seen to it that it does not run there.
    drop(trial.destination);
    let kept = unknown.resume();
    assert_eq!(kept.failure.phase, Phase::HandOver);
    must_be_as_before(kept);
}

#[test]
fn with_nobody_to_ask_it_stays_unknown() {
    let (trial, unknown) = lost_acknowledgement();
    drop(trial.receiver);
    drop(trial.proxy);
    let Outcome::Unknown(unknown) = unknown.ask(&Cancel::new()) else { panic!("decided") };
    assert!(matches!(unknown.failure().cause, Cause::Connect(_)));
    drop(unknown);
}

#[test]
fn another_destination_at_the_same_address_knows_nothing() {
    let (trial, unknown) = lost_acknowledgement();
    let address = trial.receiver.address().clone();
    drop(trial.receiver);
    // It never heard of the guest, which runs on in the process that listened here before.
    let other = Receiver::bind(&address).expect("the address is free again");
    let _answering = other.keep_answering().expect("a thread");
    let Outcome::Unknown(unknown) = unknown.ask(&Cancel::new()) else { panic!("decided") };
    assert!(matches!(unknown.failure().cause, Cause::Stranger));
}

fn open(address: &Address) -> Link {
    let cancel = Cancel::new();
    let stream = Stream::connect(address, &cancel).expect("it listens");
    let mut link = Link::new(stream, cancel, Duration::from_secs(30));
    link.exchange_openings().expect("the same version");
    link
}

#[test]
fn a_guest_asked_after_is_never_taken_later() {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let address = receiver.address().clone();
    let limits = Limits::default();
    let served = thread::scope(|scope| {
        let destination =
            scope.spawn(|| receiver.serve_one(&mut Host::default(), &limits, &mut |_| {}));
        let migration = MigrationId(77);
        let mut link = open(&address);
        let hello = Hello { migration, layout: regions(), identity: b"mock" };
        link.send(&Message::Hello(hello)).expect("it listens");
        let Message::Accept(instance) = link.receive().expect("an answer") else {
            panic!("refused")
        };
        link.send(&Message::State(&[0; 8])).expect("it listens");
        link.send(&Message::Finish(Verify::Skip)).expect("it listens");
        assert_eq!(link.receive().expect("an answer"), Message::Ready);
        // The question comes while the guest is ready there, from a source that lost patience.
        let mut asker = open(&address);
        asker.send(&Message::Query(Query { instance, migration })).expect("it answers");
        assert_eq!(asker.receive().expect("an answer"), Message::Answer(Answer::Never));
        link.send(&Message::HandOver).expect("it listens");
        let Message::Abort(why) = link.receive().expect("an answer") else { panic!("taken") };
        assert_eq!(why.kind, RefusalKind::Known);
        drop(link);
        destination.join().expect("no panic")
    });
    let failure = served.expect_err("it must not run there");
    assert!(matches!(failure.cause, Cause::Promised));
}

#[test]
fn a_second_guest_is_turned_away_while_one_arrives() {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let address = receiver.address().clone();
    let mut second = None;
    let mut host = Host::default();
    let both = attempt(idle(), &receiver, &mut host, &Options::default(), &mut |progress| {
        if progress.phase == Phase::Copy && second.is_none() {
            second = Some(migrate(idle(), &address, &Options::default(), &mut |_| {}));
        }
    });
    assert!(matches!(both.source, Outcome::Moved(_)));
    let Some(Outcome::Kept(kept)) = second else { panic!("not turned away") };
    assert!(matches!(&kept.failure.cause, Cause::Refused(why) if why.kind == RefusalKind::Busy));
    must_be_as_before(kept);
}

#[test]
fn the_same_migration_does_not_come_twice() {
    let (trial, unknown) = lost_acknowledgement();
    let migration = unknown.migration();
    // It would hear the first to come, until the next in charge has taken over.
    drop(trial.receiver.attendant().take());
    let failure = thread::scope(|scope| {
        let again = scope.spawn(|| {
            trial.receiver.serve_one(&mut Host::default(), &Limits::default(), &mut |_| {})
        });
        let mut link = open(trial.receiver.address());
        let hello = Hello { migration, layout: regions(), identity: b"mock" };
        link.send(&Message::Hello(hello)).expect("it listens");
        let Message::Refuse(why) = link.receive().expect("an answer") else { panic!("accepted") };
        assert_eq!(why.kind, RefusalKind::Known);
        drop(link);
        again.join().expect("no panic").expect_err("refused")
    });
    assert!(matches!(failure.cause, Cause::Declined(_)));
}
