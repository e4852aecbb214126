use super::{Ending, Line, Outcome, Transcript, judge};
use std::time::Duration;

const EXPECTED: [&str; 2] = ["first", "second"];

fn findings(text: &str, ending: Ending) -> Vec<(String, Outcome)> {
    let lines: Vec<Line> =
        text.lines().map(|line| Line { text: line.to_owned(), at: Duration::ZERO }).collect();
    let transcript = Transcript { lines, ending, wall: Duration::ZERO };
    let findings = judge(&EXPECTED, &transcript);
    findings.into_iter().map(|finding| (finding.check, finding.outcome)).collect()
}

/// What is wrong with a run, as rows of the report say it.
fn objections(text: &str, ending: Ending) -> Vec<String> {
    let findings = findings(text, ending).into_iter();
    let bad = findings.filter(|(_, outcome)| *outcome != Outcome::Met);
    bad.map(|(check, outcome)| format!("{check}: {outcome}")).collect()
}

const GOOD: &str =
    "machine m\ncheck first\nmet first: 3 of 4\ncheck second\nmet second: x\nend 2\n";

#[test]
fn a_run_that_meets_what_is_expected_passes() {
    let met = |check: &str| (check.to_owned(), Outcome::Met);
    assert_eq!(findings(GOOD, Ending::Left), [met("first"), met("second")]);
}

#[test]
fn a_run_that_hangs_fails_at_the_check_it_hangs_in() {
    let text = "check first\nmet first: 1\ncheck second\n";
    assert_eq!(objections(text, Ending::Hung), ["second: hung", "the end: not reached"]);
}

#[test]
fn a_machine_that_dies_without_a_word_fails() {
    let text = "check first\n";
    let expected = ["first: the machine died", "second: missing", "the end: not reached"];
    assert_eq!(objections(text, Ending::Left), expected);
}

#[test]
fn silence_fails() {
    let expected = ["first: missing", "second: missing", "the end: not reached"];
    assert_eq!(objections("", Ending::Left), expected);
}

#[test]
fn a_check_that_is_left_out_is_missed() {
    let text = "check first\nmet first: 1\nend 1\n";
    assert_eq!(objections(text, Ending::Left), ["second: missing"]);
}

#[test]
fn a_check_that_nobody_expects_is_a_failure() {
    let text = GOOD.replace("end 2", "check third\nmet third: 1\nend 3");
    assert_eq!(objections(&text, Ending::Left), ["third: not expected"]);
}

#[test]
fn a_check_that_is_met_twice_is_not_expected_again() {
    let text = GOOD.replace("end 2", "check first\nmet first: 1\nend 3");
    assert_eq!(objections(&text, Ending::Left), ["first: not expected"]);
}

#[test]
fn what_the_hypervisor_says_of_a_failure_is_told() {
    let text = "check first\nmet first: 1\ncheck second\nfailed: no such page (log.rs:3:4)\n";
    let expected = ["second: failed: no such page (log.rs:3:4)", "the end: not reached"];
    assert_eq!(objections(text, Ending::Left), expected);
}

#[test]
fn a_failure_before_the_first_check_is_told() {
    let said = "the end: failed: this processor has no SVM";
    assert_eq!(objections("failed: this processor has no SVM\n", Ending::Left)[0], said);
}

#[test]
fn an_end_with_another_count_fails() {
    for said in ["1", "3", "two"] {
        let text = GOOD.replace("end 2", &format!("end {said}"));
        let expected = format!("the end: {said} checks were run, it says, and 2 were seen");
        assert_eq!(objections(&text, Ending::Left), [expected]);
    }
}

#[test]
fn an_emulator_that_does_not_leave_after_the_end_fails() {
    assert_eq!(objections(GOOD, Ending::Hung), ["the end: hung"]);
}

#[test]
fn what_was_not_begun_cannot_be_met() {
    let text = "met first: 1\nmet second: 1\nend 0\n";
    assert_eq!(objections(text, Ending::Left), ["first: missing", "second: missing"]);
}
