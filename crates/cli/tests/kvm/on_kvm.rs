//! Where there is `/dev/kvm`.

use crate::gate;
use crate::session::{Folder, Session, code, complaint, json, run};
use serde_json::Value;
use std::process::Output;
use vellum_kvm::Way;

/// A guest that is moved in a moment.
const SMALL: [&str; 4] = ["--memory", "32M", "--vcpus", "2"];

/// One whose copying takes longer than a signal or a kill.
const LARGE: [&str; 6] = ["--memory", "256M", "--vcpus", "2", "--downtime", "1ns"];

fn migrate(more: &[&str]) -> Output {
    run(&[&["migrate", "--machine", "kvm"], more].concat())
}

/// Moves a guest, which is verified, and says what was reported.
fn moved(more: &[&str]) -> Value {
    let output = migrate(&[more, &["--json"]].concat());
    let report = json(&output);
    assert_eq!(code(&output), 0, "{report}");
    assert_eq!(report["verified"], true, "{report}");
    report
}

/// Moves guests with one and two vCPUs, their writes tracked in one way of the kernel's.
fn moves(way: Way, track: &str) {
    if !gate::has(way) {
        return;
    }
    for vcpus in ["1", "2"] {
        let report = moved(&["--memory", "32M", "--vcpus", vcpus, "--track", track]);
        assert_eq!((&report["machine"], &report["method"]), (&"kvm".into(), &track.into()));
        assert_eq!(report["vcpus"].to_string(), vcpus);
        let rounds = report["rounds"].as_array().expect("rounds");
        // The guest's tables and its program are memory too.
        assert!(report["pages"].as_u64() > Some(8192) && rounds.len() > 1, "{report}");
        assert_eq!(rounds[0]["dirty"], report["pages"], "{report}");
    }
}

#[test]
fn a_guest_moves_while_gets_clear_the_log() {
    moves(Way::ClearingGet, "per-page");
}

#[test]
fn a_guest_moves_while_the_log_is_cleared_by_hand() {
    moves(Way::Manual, "manual");
}

#[test]
fn a_guest_moves_while_rings_are_read() {
    moves(Way::Ring, "ring");
}

#[test]
fn every_guest_moves_and_no_instruction_is_claimed_that_nobody_counted() {
    if !gate::has(Way::ClearingGet) {
        return;
    }
    for guest in ["selfcheck", "sequential", "random", "zipf", "idle"] {
        let report = moved(&[&SMALL[..], &["--guest", guest]].concat());
        assert_eq!(
            (&report["ran_on"], &report["format"]),
            (&Value::Null, &Value::Null),
            "{report}"
        );
        assert!(report["ran_on_passes"].as_u64() >= Some(1), "{report}");
        assert!(report["ran_on_exits"].as_u64() >= Some(2), "{report}");
    }
}

#[test]
fn what_auto_chose_is_said_with_the_reason() {
    if !gate::has(Way::Manual) {
        return;
    }
    let report = moved(&SMALL);
    assert_eq!(report["method"], "manual", "{report}");
    let why = report["method_reason"].as_str().unwrap_or_default();
    assert!(why.contains("KVM_CLEAR_DIRTY_LOG"), "{why}");
}

#[test]
fn a_person_reads_what_moved_and_how() {
    if !gate::has(Way::Ring) {
        return;
    }
    let output = migrate(&[&SMALL[..], &["--track", "ring"]].concat());
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for words in ["tracked by ring, on /dev/kvm", "Verified:", "found all of its memory right"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn a_guest_on_transparent_huge_pages_moves() {
    if gate::has(Way::Manual) {
        moved(&[&SMALL[..], &["--page-size", "2m"]].concat());
    }
}

#[test]
fn a_guest_on_pages_of_the_pool_moves_or_is_told_how_large_the_pool_must_be() {
    if !gate::has(Way::ClearingGet) {
        return;
    }
    let output = migrate(&[&SMALL[..], &["--page-size", "hugetlb"]].concat());
    let said = match code(&output) {
        2 => Err(complaint(&output).trim().to_owned()),
        _ => Ok(()),
    };
    if let Err(text) = &said {
        assert!(text.contains("echo 16 > /proc/sys/vm/nr_hugepages"), "{text}");
    }
    if gate::has_pool(32 << 20, said) {
        assert_eq!(code(&output), 0, "{}", complaint(&output));
    }
}

#[test]
fn a_receiver_takes_a_native_guest_without_being_told() {
    if !gate::has(Way::Manual) {
        return;
    }
    let folder = Folder::new("native");
    let mut destination = Session::receive(&["--listen", &folder.unix("socket"), "--passes", "3"]);
    let address = destination.address();
    let report = moved(&[&SMALL[..], &["--to", &address]].concat());
    assert_eq!(report["machine"], "kvm", "{report}");
    let ended = destination.until("ended");
    assert_eq!(ended["how"], "asked", "{ended}");
    assert_eq!(destination.end().code(), Some(0));
    assert!(folder.is_empty());
    let counted = |event: &&Value| event["event"] == "progress";
    let last = destination.seen().iter().rev().find(counted).expect("it made progress");
    assert_eq!((&last["retired"], last["exits"].is_array()), (&Value::Null, true), "{last}");
}

#[test]
fn ctrl_c_leaves_no_process_and_no_socket_behind() {
    if !gate::has(Way::Manual) {
        return;
    }
    for (moment, ending) in
        [("tracking", None), ("connected", Some("runs-on")), ("round", Some("runs-on"))]
    {
        let folder = Folder::new(&format!("native-{moment}"));
        let mut session =
            Session::migrate_in(&folder, &[&["--machine", "kvm"], &LARGE[..]].concat());
        session.until(moment);
        session.interrupt();
        ending.map(|ending| session.until(ending));
        session.drain();
        assert_eq!(session.end().code(), Some(1), "at {moment}");
        assert!(folder.is_empty(), "the socket's folder is left at {moment}");
    }
}

#[test]
fn a_destination_killed_while_it_copies_leaves_the_guest_here_and_the_next_attempt_moves_it() {
    if !gate::has(Way::Ring) {
        return;
    }
    let mut first = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let address = first.address();
    let kvm = ["--machine", "kvm", "--track", "ring"];
    let to = ["--to", &address, "--attempts", "100"];
    let mut source = Session::migrate(&[&kvm[..], &to, &LARGE].concat());
    source.until("round");
    first.kill();
    source.until("runs-on");
    first.end();
    let mut second = Session::receive(&["--listen", &address, "--passes", "10"]);
    source.until("handed-over");
    assert_eq!(source.end().code(), Some(0));
    assert_eq!(second.until("ended")["how"], "asked", "{:?}", second.seen());
}
