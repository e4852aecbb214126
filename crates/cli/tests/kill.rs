//! Either process killed at random moments: no page is lost, never two guests run, and never none
//! but where the killed process held the guest.
//!
//! What shows it: a side says *running* before its guest runs and *paused* after it has stopped. A
//! guest that moved on an attempt after a kill was compared by digest on its way, and checks
//! itself where it arrives.

mod session;

use session::{Session, code, run};
use std::time::{Duration, Instant};

const RUNS: u64 = 200;
const MEMORY: [&str; 6] = ["--memory", "16M", "--vcpus", "2", "--seed", "1"];
/// More than the self-checking guest needs to have checked all of its memory again.
const PASSES: &str = "40";

/// Who is killed, and when: some time after the migration has begun.
struct Plan {
    victim: Victim,
    after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Destination,
}

/// Where the guest was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// It went with the process that held it.
    Lost,
    /// At the source, which then gave it to another destination.
    Kept,
    /// At the source, which did not know until a person said so.
    Resumed,
    /// At the destination.
    Moved,
}

/// Marsaglia's xorshift: the same moments are asked for in every test run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn plan(&mut self, usual: Duration) -> Plan {
        let victim = if self.next() & 1 == 0 { Victim::Source } else { Victim::Destination };
        // A little beyond the usual end, so that the hand-over and what follows is met too.
        let share = (self.next() >> 40) as f64 / (1 << 24) as f64;
        Plan { victim, after: usual.mul_f64(1.2 * share) }
    }
}

#[test]
fn whoever_is_killed_there_is_one_guest_and_no_page_is_lost() {
    let usual = usual_time();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut found = Vec::new();
    for _ in 0..RUNS {
        found.push(one(&random.plan(usual)));
    }
    for what in [Found::Lost, Found::Kept, Found::Resumed, Found::Moved] {
        println!("{what:?}: {}", found.iter().filter(|found| **found == what).count());
    }
    assert!(found.contains(&Found::Kept), "no kill met a source that was copying");
    assert!(found.contains(&Found::Moved), "no kill met a destination that had the guest");
}

/// From the start of the source to its end, undisturbed.
fn usual_time() -> Duration {
    let mut destination = Session::receive(&["--listen", "tcp:127.0.0.1:0"]);
    let address = destination.address();
    let begin = Instant::now();
    let output = run(&[&["migrate", "--to", &address], &MEMORY[..]].concat());
    assert_eq!(code(&output), 0);
    begin.elapsed()
}

fn one(plan: &Plan) -> Found {
    let mut destination = receive("tcp:127.0.0.1:0");
    let address = destination.address();
    let mut source =
        Session::migrate(&[&["--to", &address, "--attempts", "1000"], &MEMORY[..]].concat());
    std::thread::sleep(plan.after);
    match plan.victim {
        Victim::Source => without_source(source, destination),
        Victim::Destination => {
            destination.kill();
            destination.drain();
            destination.end();
            without_destination(&mut source, &destination, &address)
        }
    }
}

fn receive(address: &str) -> Session {
    Session::receive(&["--listen", address, "--passes", PASSES])
}

/// The source is gone: the destination has the guest, or the source had it to the end.
fn without_source(mut source: Session, mut destination: Session) -> Found {
    source.kill();
    source.drain();
    source.end();
    if source.said("handed-over") {
        assert!(arrives(&mut destination), "nobody runs the guest: {:?}", destination.seen());
        return Found::Moved;
    }
    // A destination that nothing has reached waits on; one that was reached says what became of it.
    if !source.said("connected") {
        return Found::Lost;
    }
    if !arrives(&mut destination) {
        return Found::Lost;
    }
    let (paused, ran) = (source.position("paused"), source.position("running"));
    assert!(paused > ran, "two guests ran: {:?}", source.seen());
    Found::Moved
}

/// Whether the guest runs at the destination. If so, it is watched until it has found all of its
/// memory right.
fn arrives(destination: &mut Session) -> bool {
    let event = destination.until_any(&["refused", "running"]).expect("it hears of the end");
    if event["event"] == "refused" {
        return false;
    }
    let ended = destination.until("ended");
    assert_eq!(ended["how"], "asked", "the guest found a page lost: {ended}");
    true
}

/// The destination is gone: the source has the guest, or knows that it is gone too.
fn without_destination(source: &mut Session, destination: &Session, address: &str) -> Found {
    let names = ["handed-over", "runs-on", "unknown"];
    let event = source.until_any(&names).expect("it says what became of the guest");
    match event["event"].as_str() {
        Some("handed-over") => {
            assert!(destination.said("running"), "given to nobody: {:?}", destination.seen());
            assert_eq!(source.end().code(), Some(0));
            Found::Lost
        }
        Some("runs-on") => {
            assert!(!destination.said("running"), "two guests ran: {:?}", destination.seen());
            moves_elsewhere(source, address);
            Found::Kept
        }
        _ => {
            assert!(source.position("paused") > source.position("running"), "it is not paused");
            resume(source);
            moves_elsewhere(source, address);
            Found::Resumed
        }
    }
}

/// A person who has seen the destination die decides.
fn resume(source: &mut Session) {
    let pid = source.pid().to_string();
    assert_eq!(code(&run(&["migrate", "--resume", &pid])), 0);
    source.until("runs-on");
}

/// The guest that stayed is given to a second destination at the same address: compared on its
/// way, it checks itself where it arrives.
fn moves_elsewhere(source: &mut Session, address: &str) {
    let mut second = receive(address);
    second.address();
    source.until("handed-over");
    assert!(arrives(&mut second), "the next attempt fails: {:?}", second.seen());
    assert_eq!(source.end().code(), Some(0));
}
