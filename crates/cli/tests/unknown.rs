//! When nobody knows where the guest runs, nobody waits for a question to end.

#[allow(dead_code, reason = "the matrix uses all of it")]
mod failures;
mod session;

use failures::chance::Chance;
use failures::fault::{Cut, Fault};
use failures::frames::Way;
use failures::phase::Phase;
use failures::proxy::{News, Plan};
use failures::run::{Job, Runs};
use failures::scene::Scene;
use session::{code, run};

/// The acknowledgement is lost, and whoever is asked does not answer.
fn unanswered(seed: u64) -> Scene {
    let (phase, fault) = (Phase::Taken, Fault::Cut(Cut::Both));
    let (way, blow, chance) = (Way::Back, fault.blow(), Chance::new(seed));
    let plan = Plan { phase, way, nth: 0, blow, chance };
    let mut scene =
        Scene::start(&Job { phase, fault, seed, broken: None, runs: Runs::Software }, plan);
    assert_eq!(scene.proxy.await_strike(), News::Struck);
    scene.source.until("unknown");
    scene
}

#[test]
fn a_person_who_knows_better_does_not_wait_for_a_question() {
    let mut scene = unanswered(1);
    // That is what the person knows.
    scene.destination.session.kill();
    scene.destination.session.end();
    let pid = scene.source.pid().to_string();
    assert_eq!(code(&run(&["migrate", "--resume", &pid])), 0);
    scene.source.until("runs-on");
}

#[test]
fn ctrl_c_does_not_wait_for_a_question() {
    let mut scene = unanswered(2);
    scene.source.interrupt();
    scene.source.drain();
    assert!(!scene.source.said("runs-on"), "the destination runs it");
    assert_eq!(scene.source.end().code(), Some(1));
}
