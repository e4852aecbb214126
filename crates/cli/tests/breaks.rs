//! Every deliberate bug is caught: one of the tracking makes a migration fail its verification,
//! within three seeds; one of the migration makes a cell of the failure matrix fail.

#[allow(dead_code, reason = "the matrix uses all of it")]
mod failures;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "kvm/gate.rs"]
mod gate;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "breaks/on_kvm.rs"]
mod on_kvm;
mod session;

use failures::fault::{Cut, Fault};
use failures::phase::Phase;
use failures::run::{Job, Rule, Runs, one};
use session::{code, json, run};

const SEEDS: [&str; 3] = ["1", "2", "3"];

fn assert_caught(bug: &str) {
    let caught = SEEDS.iter().any(|seed| fails(&["--break", bug], seed));
    assert!(caught, "--break {bug} was verified with each of the seeds {SEEDS:?}");
}

/// Whether it ended as a migration that lost something ends.
fn fails(asked: &[&str], seed: &str) -> bool {
    let output = run(&[&["migrate", "--json", "--seed", seed], asked].concat());
    let verified = json(&output)["verified"].as_bool().expect("`verified` is a truth value");
    assert_eq!(code(&output), if verified { 0 } else { 1 }, "{}", json(&output));
    !verified
}

#[test]
fn a_mark_before_the_leaf_is_opened_is_caught() {
    assert_caught("mark-early");
}

#[test]
fn a_harvest_without_its_shoot_down_is_caught() {
    assert_caught("skip-flush");
}

#[test]
fn a_dropped_bit_is_caught() {
    assert_caught("drop-bit");
}

#[test]
fn a_settle_after_the_opening_is_caught() {
    assert_caught("late-settle");
}

#[test]
fn a_clear_of_more_than_was_fetched_is_caught() {
    assert_caught("clear-more");
}

#[test]
fn a_read_that_links_a_parked_table_unsettled_is_caught() {
    assert_caught("read-lifts");
}

#[test]
fn a_split_into_storable_leaves_is_caught() {
    assert_caught("split-lifts");
}

/// The cell in which the matrix finds the bug out, by the rule that it breaks.
fn assert_breaks(bug: &'static str, phase: Phase, rule: Rule) {
    let fault = Fault::Cut(Cut::Both);
    for seed in 0..3 {
        let sound = Job { phase, fault, seed, broken: None, runs: Runs::Software };
        one(&sound).expect("without the bug the run keeps every rule");
        let wrong = one(&Job { broken: Some(bug), ..sound }).expect_err("the bug is not found");
        assert_eq!(wrong.rule, rule, "{}", wrong.seen);
    }
}

#[test]
fn a_source_that_forgets_what_it_owes_fails_the_matrix() {
    for phase in [Phase::First, Phase::Later, Phase::Stopped] {
        assert_breaks("forget-owed", phase, Rule::NoPageLost);
    }
}

#[test]
fn a_source_that_resumes_unasked_fails_the_matrix() {
    assert_breaks("resume-unasked", Phase::Taken, Rule::NeverTwo);
}

#[test]
fn without_a_break_the_same_migration_is_verified() {
    let output = run(&["migrate", "--json"]);
    assert_eq!(code(&output), 0, "{}", json(&output));
}
