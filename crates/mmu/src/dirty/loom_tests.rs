//! Marks against harvests, level by level.

use super::*;
use loom::sync::Arc;
use std::string::String;
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

/// Demands that loom find what a scenario says of a lost mark. Any other panic is no objection.
fn must_object(scenario: impl Fn() + Sync + Send + 'static) {
    let run = std::panic::AssertUnwindSafe(|| model(scenario));
    let panic = std::panic::catch_unwind(run).expect_err("loom did not object");
    let literal = panic.downcast_ref::<&str>().copied();
    let said = panic.downcast_ref::<String>().map(String::as_str).or(literal);
    assert!(said.is_some_and(|said| said.contains("no harvest found it")), "{said:?}");
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
    must_object(|| marks_against_take(Some(Break::TrustWord)));
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

/// A set of two words with pages marked.
fn marked(pages: &[u64], bug: Option<Break>) -> Arc<DirtySet> {
    let set = DirtySet::new(128, Initial::Clean, Breaks { chosen: bug }).expect("memory");
    set.prepare(0);
    pages.iter().for_each(|page| set.mark(*page));
    Arc::new(set)
}

/// One page of a word is taken out while another is marked.
fn clear_against_mark(bug: Option<Break>) {
    let set = marked(&[1], bug);
    let other = set.clone();
    let clearer = loom::thread::spawn(move || other.take_some(0, 0b10));
    set.mark(2);
    assert_eq!(clearer.join().expect("no panic"), 0b10);
    assert!(taken(&set).contains(&2), "a mark was made and no harvest found it");
}

#[test]
fn a_clear_hides_no_mark() {
    model(|| clear_against_mark(None));
}

#[test]
fn lowering_blindly_loses_a_mark() {
    must_object(|| clear_against_mark(Some(Break::LowerBlindly)));
}

/// The same with the harvest while the clear is under way.
fn clear_and_mark_against_take(bug: Option<Break>) {
    let set = marked(&[1], bug);
    let other = set.clone();
    let clearer = loom::thread::spawn(move || other.take_some(0, 0b10));
    set.mark(2);
    let mut found = taken(&set);
    assert!(found.contains(&2), "a mark was made and no harvest found it");
    if clearer.join().expect("no panic") != 0 {
        found.push(1);
    }
    assert!(found.contains(&1), "a mark was made and no harvest found it");
}

#[test]
fn a_clear_under_way_hides_no_mark() {
    model(|| clear_and_mark_against_take(None));
}

#[test]
fn lowering_while_somebody_scans_loses_a_mark() {
    must_object(|| clear_and_mark_against_take(Some(Break::LowerUnderScan)));
}

/// A word is lowered with nothing beside it while two marks come to another word.
fn lowering_against_two_marks(bug: Option<Break>) {
    let set = marked(&[1], bug);
    let (slow, other) = (set.clone(), set.clone());
    let clearer = loom::thread::spawn(move || other.take_some(0, 0b10));
    let slow = loom::thread::spawn(move || slow.mark(64));
    set.mark(65);
    clearer.join().expect("no panic");
    let mut found = taken(&set);
    assert!(found.contains(&65), "a mark was made and no harvest found it");
    slow.join().expect("no panic");
    found.extend(taken(&set));
    assert!(found.contains(&64), "a mark was made and no harvest found it");
}

#[test]
fn a_lowered_word_hides_no_other() {
    model(|| lowering_against_two_marks(None));
}

#[test]
fn lowering_the_top_loses_a_mark() {
    must_object(|| lowering_against_two_marks(Some(Break::LowerTop)));
}

/// A clear has emptied a word, a mark has come, and the clear lowers the word: whoever scans
/// meanwhile and is told to go by the summary finds the word there.
fn scan_against_lowering(bug: Option<Break>) {
    let set = marked(&[2], bug);
    let other = set.clone();
    let clearer = loom::thread::spawn(move || other.lower(0));
    let scan = set.scan();
    if scan.finds == Finds::BySummary {
        let summary = set.summary[0].load(Ordering::Acquire);
        assert_eq!(summary, 1, "a mark was made and no harvest found it");
    }
    drop(scan);
    clearer.join().expect("no panic");
    assert_eq!(taken(&set), [2]);
}

#[test]
fn a_scan_that_goes_by_the_summary_finds_every_marked_word() {
    model(|| scan_against_lowering(None));
}

#[test]
fn a_scan_that_a_lowering_does_not_look_for_misses_a_mark() {
    must_object(|| scan_against_lowering(Some(Break::LowerUnderScan)));
}

/// A mark that was made is read while a clear of another page of its word is under way.
fn clear_against_read(bug: Option<Break>) {
    let set = marked(&[1, 2], bug);
    let other = set.clone();
    let clearer = loom::thread::spawn(move || other.take_some(0, 0b10));
    set.mark(3);
    let mut seen = 0;
    set.read(|_, mask| seen |= mask);
    assert_eq!(seen & 0b1100, 0b1100, "a mark was made and no harvest found it");
    assert_eq!(clearer.join().expect("no panic"), 0b10);
    assert_eq!(taken(&set), [2, 3]);
}

#[test]
fn a_clear_under_way_hides_nothing_from_a_read() {
    model(|| clear_against_read(None));
}

/// Two clears of a word and a harvest: each mark goes to one of them.
fn clears_against_take() {
    let set = marked(&[1, 2, 3], None);
    let other = set.clone();
    let clearer = loom::thread::spawn(move || other.take_some(0, 0b0110));
    let mine = set.take_some(0, 0b1100);
    let rest = taken(&set);
    let theirs = clearer.join().expect("no panic");
    let rest = rest.iter().fold(0, |mask, page| mask | 1 << page);
    assert_eq!(mine & theirs | mine & rest | theirs & rest, 0, "a mark was taken twice");
    let late = taken(&set).iter().fold(0, |mask, page| mask | 1 << page);
    assert_eq!(mine | theirs | rest | late, 0b1110, "a mark was made and no harvest found it");
}

#[test]
fn each_mark_goes_to_one_clear_or_harvest() {
    model(clears_against_take);
}

/// A word of which all is dirty is given bits of its own while somebody harvests and a page is
/// marked.
fn spell_out_against_take_and_mark() {
    let set = DirtySet::new(128, Initial::AllSet, Breaks::default()).expect("memory");
    let set = Arc::new(set);
    let (other, marker) = (set.clone(), set.clone());
    let clearer = loom::thread::spawn(move || other.take_some(0, 0b10));
    let marker = loom::thread::spawn(move || marker.mark(2));
    let mut found = taken(&set);
    let cleared = clearer.join().expect("no panic");
    marker.join().expect("no panic");
    found.extend(taken(&set));
    found.extend(bits(cleared));
    assert!((0..128).all(|page| found.contains(&page)), "a page of a set that was all set is lost");
}

#[test]
fn a_word_that_is_spelled_out_hides_no_page() {
    model(spell_out_against_take_and_mark);
}
