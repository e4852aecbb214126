//! Marks against harvests, level by level.

use super::*;
use loom::sync::Arc;
use std::vec::Vec;

fn taken(set: &DirtySet) -> Vec<usize> {
    let mut pages = Vec::new();
    set.take(|word, mask| pages.extend(bits(mask).map(|bit| word * 64 + bit)));
    pages
}

/// At most three interruptions a thread: half a second. Without a bound it is 35, and passes too.
fn model(scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(scenario);
}

/// Two mark pages of one word while a third harvests twice; each mark must be found by a harvest
/// that begins after the marker has returned.
fn marks_against_take(bug: Option<Break>) {
    let set = Arc::new(DirtySet::new(128, Initial::Clean, Breaks { chosen: bug }).expect("memory"));
    set.prepare(0);
    let (first, second) = (set.clone(), set.clone());
    let slow = loom::thread::spawn(move || first.mark(1));
    let harvester = loom::thread::spawn(move || taken(&second));
    set.mark(2);
    let mut found = taken(&set);
    found.extend(harvester.join().expect("no panic"));
    assert!(found.contains(&2), "a mark was made and no harvest found it");
    slow.join().expect("no panic");
    found.extend(taken(&set));
    assert!(found.contains(&1), "a mark was made and no harvest found it");
}

#[test]
fn a_mark_that_has_returned_is_found() {
    model(|| marks_against_take(None));
}

#[test]
fn trusting_a_word_that_is_not_empty_loses_a_mark() {
    let run = || model(|| marks_against_take(Some(Break::TrustWord)));
    assert!(std::panic::catch_unwind(run).is_err(), "loom did not object");
}

#[test]
fn words_that_arrive_meanwhile_hide_no_mark() {
    model(|| {
        let set = Arc::new(DirtySet::new(128, Initial::Clean, Breaks::default()).expect("memory"));
        let (marker, mapper) = (set.clone(), set.clone());
        let marker = loom::thread::spawn(move || marker.mark(1));
        let mapper = loom::thread::spawn(move || mapper.prepare(0));
        let mut found = taken(&set);
        marker.join().expect("no panic");
        mapper.join().expect("no panic");
        found.extend(taken(&set));
        assert!(found.contains(&1));
    });
}
