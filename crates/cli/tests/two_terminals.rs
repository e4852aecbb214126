//! A source and a destination that a person starts.

mod session;

use session::{Folder, SMALL, Session, code, complaint, json, run};

fn send(address: &str, more: &[&str]) -> std::process::Output {
    run(&[&["migrate", "--to", address], &SMALL[..], more].concat())
}

fn assert_moves(listen: &str) {
    let mut destination = Session::receive(&["--listen", listen, "--passes", "5"]);
    let address = destination.address();
    let output = send(&address, &["--json"]);
    let report = json(&output);
    assert_eq!(code(&output), 0, "{report}");
    assert_eq!(report["verified"], true, "{report}");
    let ended = destination.until("ended");
    assert_eq!(ended["how"], "asked", "{ended}");
    assert_eq!(destination.end().code(), Some(0));
}

#[test]
fn a_guest_moves_over_tcp() {
    assert_moves("tcp:127.0.0.1:0");
}

#[test]
fn a_guest_moves_over_a_unix_socket_and_the_socket_is_removed() {
    let folder = Folder::new("unix");
    assert_moves(&folder.unix("socket"));
    assert!(folder.is_empty());
}

#[test]
fn a_destination_runs_the_guest_until_ctrl_c() {
    let mut destination = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let address = destination.address();
    let output = send(&address, &["--guest", "idle"]);
    assert_eq!(code(&output), 0, "{}", complaint(&output));
    destination.until("progress");
    destination.interrupt();
    let ended = destination.until("ended");
    assert_eq!(ended["how"], "asked", "{ended}");
    assert_eq!(destination.end().code(), Some(0));
}

#[test]
fn a_destination_killed_before_the_hand_over_leaves_the_guest_at_the_source() {
    let mut destination = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let address = destination.address();
    let mut source = Session::migrate(&["--to", &address, "--memory", "256M"]);
    source.until("round");
    destination.kill();
    let event = source.until_any(&["runs-on", "handed-over"]).expect("it ends somehow");
    assert_eq!(event["event"], "runs-on", "256 MiB take longer than a kill");
    assert_eq!(source.end().code(), Some(1));
}

#[test]
fn after_a_failure_the_next_attempt_succeeds() {
    let mut first = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let address = first.address();
    let mut source = Session::migrate(&["--to", &address, "--memory", "256M", "--attempts", "100"]);
    source.until("round");
    first.kill();
    source.until("runs-on");
    first.end();
    let mut second = Session::receive(&["--listen", &address, "--passes", "20"]);
    source.until("handed-over");
    assert_eq!(source.end().code(), Some(0));
    assert_eq!(second.until("ended")["how"], "asked", "{:?}", second.seen());
}

#[test]
fn a_source_killed_while_it_copies_leaves_no_guest_behind() {
    let mut destination = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let address = destination.address();
    let mut source = Session::migrate(&["--to", &address, "--memory", "256M"]);
    source.until("round");
    source.kill();
    let event = destination.until_any(&["refused", "running"]).expect("it hears of it");
    assert_eq!(event["event"], "refused", "256 MiB take longer than a kill");
}

#[test]
fn ctrl_c_cancels_and_the_guest_stays_at_the_source() {
    let mut destination = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let address = destination.address();
    let mut source = Session::migrate(&["--to", &address, "--memory", "256M"]);
    source.until("round");
    source.interrupt();
    let reason = source.until("runs-on")["reason"].to_string();
    assert!(reason.contains("cancelled"), "{reason}");
    assert_eq!(source.end().code(), Some(1));
    destination.until("refused");
}

#[test]
fn ctrl_c_ends_a_destination_that_waits() {
    let mut destination = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    destination.address();
    destination.interrupt();
    assert_eq!(destination.end().code(), Some(1));
}

#[test]
fn whoever_talks_garbage_is_refused_and_the_next_guest_still_arrives() {
    use std::io::Write;
    let mut destination = Session::receive(&["--listen", "tcp:127.0.0.1:0", "--passes", "1"]);
    let address = destination.address();
    let plain = address.trim_start_matches("tcp:");
    let mut stranger = std::net::TcpStream::connect(plain).expect("it listens");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it reads");
    destination.until("refused");
    assert_eq!(code(&send(&address, &[])), 0);
    destination.until("ended");
}
