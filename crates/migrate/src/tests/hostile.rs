//! Peers that send what they please.

use super::mock::*;
use crate::address::{Listener, Stream};
use crate::link::Link;
use crate::wire::{Header, Hello, MAGIC, Message, OPENING, PAGE, Pages, Run, Zero, opening};
use crate::*;
use proptest::prelude::*;
use std::borrow::Cow;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

fn regions() -> vellum_memory::Layout {
    layout(&[(0, 0x10, 65), (1, 0x1000, 70)])
}

/// What a receiver says of a peer that does `act`; then a real guest must still arrive there.
fn receiver_says(act: impl FnOnce(&Address) + Send) -> Failure {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let failure = thread::scope(|scope| {
        let served = scope
            .spawn(|| receiver.serve_one(&mut Host::default(), &Limits::default(), &mut |_| {}));
        act(receiver.address());
        served.join().expect("it does not panic").expect_err("no guest came")
    });
    let machine = Machine::start(&regions(), Habit::Idle, Way::Clearing);
    let both = attempt(machine, &receiver, &mut Host::default(), &Options::default(), &mut |_| {});
    assert!(matches!(both.source, Outcome::Moved(_)), "the next guest arrives");
    failure
}

fn raw(address: &Address) -> Stream {
    Stream::connect(address, &Cancel::new()).expect("it listens")
}

/// A source that was accepted.
fn accepted(address: &Address) -> Link {
    let mut link = Link::new(raw(address), Cancel::new(), Duration::from_secs(30));
    link.exchange_openings().expect("the same version");
    let hello = Hello { migration: MigrationId(5), layout: regions(), identity: b"mock" };
    link.send(&Message::Hello(hello)).expect("it listens");
    assert!(matches!(link.receive().expect("an answer"), Message::Accept(_)));
    link
}

#[test]
fn who_does_not_speak_the_protocol_is_told_apart() {
    for talk in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0", b"VELLUM\x1a\r"] {
        let failure = receiver_says(|address| raw(address).write_all(talk).expect("it listens"));
        assert!(matches!(failure.cause, Cause::NotVellum), "{failure}");
    }
    let failure = receiver_says(|address| drop(raw(address)));
    assert!(matches!(failure.cause, Cause::Closed), "{failure}");
}

#[test]
fn another_version_is_named_on_both_sides() {
    let failure = receiver_says(|address| {
        let mut stream = raw(address);
        stream.write_all(&opening(VERSION + 1)).expect("it listens");
        let mut theirs = [0; OPENING];
        stream.read_exact(&mut theirs).expect("it says which version it has");
        assert_eq!(theirs, opening(VERSION));
    });
    assert!(matches!(failure.cause, Cause::Version(version) if version == VERSION + 1));
    let kept = destination_says(|mut stream| {
        stream.write_all(&opening(VERSION + 1)).expect("it listens");
        // Whoever hangs up on a source that still writes breaks the connection.
        stream.read_exact(&mut [0; OPENING]).expect("it says which version it has");
    });
    assert!(matches!(kept.failure.cause, Cause::Version(version) if version == VERSION + 1));
    must_be_as_before(kept);
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_a_byte_is_read() {
    let failure = receiver_says(|address| {
        let mut stream = raw(address);
        stream.write_all(&opening(VERSION)).expect("it listens");
        stream.read_exact(&mut [0; OPENING]).expect("it answers");
        let header = Header::new(Kind::Hello, u32::MAX as usize, &[]).encode();
        stream.write_all(&header).expect("it listens");
    });
    assert!(matches!(failure.cause, Cause::Wire(WireError::Length { .. })), "{failure}");
}

#[test]
fn pages_outside_their_region_are_refused() {
    let cases = [
        (2, Run { first: 0, pages: 1 }, WireError::Region(2)),
        (0, Run { first: 65, pages: 1 }, WireError::Run { region: 0, first: 65, pages: 1 }),
        (1, Run { first: 69, pages: 2 }, WireError::Run { region: 1, first: 69, pages: 2 }),
        (
            0,
            Run { first: u64::MAX, pages: 2 },
            WireError::Run { region: 0, first: u64::MAX, pages: 2 },
        ),
    ];
    for (region, run, wanted) in cases {
        let runs = [run];
        let data = vec![1; run.pages as usize * PAGE];
        let pages = Message::Pages(Pages { region, runs: Cow::Borrowed(&runs), data: &data });
        let zero = Message::Zero(Zero { region, runs: Cow::Borrowed(&runs) });
        for message in [pages, zero] {
            let failure = receiver_says(|address| {
                let mut link = accepted(address);
                link.send(&message).expect("it listens");
                assert!(matches!(link.receive(), Ok(Message::Abort(_))), "it says why");
            });
            assert!(matches!(failure.cause, Cause::Wire(error) if error == wanted), "{failure}");
            assert_eq!(failure.phase, Phase::Copy);
        }
    }
}

#[test]
fn messages_out_of_place_are_refused() {
    let state = || Message::State(&[0; 8]);
    let cases: Vec<(Vec<Message<'_>>, Kind)> = vec![
        (vec![Message::HandOver], Kind::HandOver),
        (vec![Message::Finish(Verify::Skip)], Kind::Finish),
        (vec![state(), state()], Kind::State),
        (vec![Message::Running], Kind::Running),
        (vec![Message::Answer(Answer::Taken)], Kind::Answer),
    ];
    for (messages, wanted) in cases {
        let failure = receiver_says(|address| {
            let mut link = accepted(address);
            messages.iter().for_each(|message| link.send(message).expect("it listens"));
            assert!(matches!(link.receive(), Ok(Message::Abort(_))), "it says why");
        });
        assert!(matches!(failure.cause, Cause::Unexpected(kind) if kind == wanted), "{failure}");
    }
}

#[test]
fn a_guest_that_finished_is_not_taken_without_the_hand_over() {
    let failure = receiver_says(|address| {
        let mut link = accepted(address);
        link.send(&Message::State(&[0; 8])).expect("it listens");
        link.send(&Message::Finish(Verify::Skip)).expect("it listens");
        assert_eq!(link.receive().expect("an answer"), Message::Ready);
    });
    assert!(matches!(failure.cause, Cause::Closed), "{failure}");
}

/// What a source says of a destination that does `act`.
fn destination_says(act: impl FnOnce(Stream) + Send) -> Kept<Machine> {
    let listener = Listener::bind(&socket()).expect("a fresh address");
    let address = listener.address().expect("it has one");
    let machine = Machine::start(&regions(), Habit::Stores(60), Way::Clearing);
    let outcome = thread::scope(|scope| {
        scope.spawn(|| act(listener.accept(&Cancel::new()).expect("no error").expect("a peer")));
        migrate(machine, &address, &Options::default(), &mut |_| {})
    });
    match outcome {
        Outcome::Kept(kept) => kept,
        other => panic!("not kept: {other:?}"),
    }
}

#[test]
fn a_destination_that_claims_to_run_a_guest_it_was_not_given_is_not_believed() {
    for lie in [Message::Running, Message::Ready, Message::Answer(Answer::Taken)] {
        let kept = destination_says(|stream| {
            let mut link = Link::new(stream, Cancel::new(), Duration::from_secs(30));
            link.exchange_openings().expect("the same version");
            assert!(matches!(link.receive().expect("a source"), Message::Hello(_)));
            link.send(&lie).expect("it listens");
        });
        assert!(matches!(kept.failure.cause, Cause::Unexpected(_)), "{:?}", kept.failure);
        must_be_as_before(kept);
    }
}

#[test]
fn a_destination_that_is_none_keeps_the_guest_here() {
    let kept = destination_says(|mut stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_10.0\r\n").expect("it listens");
    });
    assert!(matches!(kept.failure.cause, Cause::NotVellum), "{:?}", kept.failure);
    must_be_as_before(kept);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_source_survives_any_answer(bytes in prop::collection::vec(any::<u8>(), 0..400), open: bool) {
        let kept = destination_says(|mut stream| {
            if open {
                let _ = stream.write_all(&opening(VERSION));
            }
            let _ = stream.write_all(&bytes);
        });
        prop_assert!(kept.guest.is_running());
        prop_assert!(!kept.guest.is_logged() && kept.guest.owes_all_it_gave());
    }

    #[test]
    fn a_receiver_survives_any_peer(bytes in prop::collection::vec(any::<u8>(), 0..400), deep in 0..3) {
        receiver_says(|address| {
            if deep < 2 {
                let mut stream = raw(address);
                let begin = if deep == 0 { &MAGIC[..3] } else { &opening(VERSION)[..] };
                let _ = stream.write_all(begin).and_then(|()| stream.write_all(&bytes));
            } else {
                accepted(address).send_raw(&bytes);
            }
        });
    }

    #[test]
    fn a_receiver_survives_any_message(kind in prop::sample::select(&Kind::ALL[..]), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        receiver_says(|address| {
            let header = Header::new(kind, bytes.len(), &bytes).encode();
            accepted(address).send_raw(&[&header[..], &bytes].concat());
        });
    }
}
