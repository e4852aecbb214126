use super::Gate;
use crate::kick;
use crate::status::{End, Ended};
use std::io::{ErrorKind, Read, pipe};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::spawn;
use std::time::Duration;

/// Stays inside until so many signals have come, as one would to which the others came too early.
fn deaf(gate: &Gate, kicks: u32, entered: impl FnOnce()) {
    kick::let_through().expect("the signal comes through");
    let turn = gate.enter(0).expect("it runs");
    let (mut reader, _writer) = pipe().expect("a pipe");
    entered();
    for _ in 0..kicks {
        let interrupted = reader.read(&mut [0]).expect_err("nobody writes");
        assert_eq!(interrupted.kind(), ErrorKind::Interrupted);
    }
    drop(turn);
    while gate.enter(0).is_some() {}
}

#[test]
fn a_vcpu_that_does_not_hear_the_first_kicks_is_kicked_again() {
    kick::listen().expect("a handler");
    let gate = Arc::new(Gate::new(1));
    let (enter, entered) = channel();
    let inside = Arc::clone(&gate);
    gate.add(spawn(move || deaf(&inside, 5, || enter.send(()).expect("somebody waits"))));
    gate.resume();
    entered.recv().expect("it enters");
    let (pause, paused) = channel();
    let pausing = Arc::clone(&gate);
    spawn(move || {
        pausing.pause();
        pause.send(()).expect("somebody waits");
    });
    paused.recv_timeout(Duration::from_secs(60)).expect("it has left");
    assert!(gate.is_paused());
    gate.close();
}

#[test]
fn a_pause_finds_the_end_that_came_meanwhile() {
    kick::listen().expect("a handler");
    let gate = Arc::new(Gate::new(1));
    let (enter, entered) = channel();
    let inside = Arc::clone(&gate);
    gate.add(spawn(move || {
        let turn = inside.enter(0).expect("it runs");
        enter.send(()).expect("somebody waits");
        while !turn.is_over() {
            std::thread::yield_now();
        }
        turn.end(Ended::ShutDown(End::Failed));
        assert!(inside.enter(0).is_none());
    }));
    gate.resume();
    entered.recv().expect("it enters");
    gate.pause();
    assert!(matches!(gate.ended(), Some(Ended::ShutDown(End::Failed))));
    gate.close();
}

#[test]
fn a_vcpu_that_panics_ends_the_others_turns_and_the_machine_for_good() {
    kick::listen().expect("a handler");
    let gate = Arc::new(Gate::new(2));
    let (enter, entered) = channel();
    let inside = Arc::clone(&gate);
    gate.add(spawn(move || deaf(&inside, 3, || enter.send(()).expect("somebody waits"))));
    let panicking = Arc::clone(&gate);
    gate.add(spawn(move || {
        let _turn = panicking.enter(1).expect("it runs");
        entered.recv().expect("the other enters");
        panic!("as a console might");
    }));
    gate.resume();
    while gate.ended().is_none() {
        std::thread::yield_now();
    }
    gate.pause();
    assert!(!gate.is_whole());
    gate.close();
}
