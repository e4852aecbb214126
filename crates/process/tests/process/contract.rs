//! What every dirty source promises, over each kind of memory.

use crate::memory::{Kind, Memory};
use crate::oracle::{Copy, Draw, next, take};
use crate::{PAGES, each_kind, log_of, mapping};
use rustix::mm::Advice;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use vellum_memory::{DirtySource, Layout, Misuse, PageSet};
use vellum_process::{Aliased, ProcessError, ProcessLog, WatchError, WriteWatch, Writers};

/// Stores to `pages` pages at random.
fn scribble(memory: &Memory, draw: &mut Draw, pages: u64) {
    for _ in 0..pages {
        let value = draw.below(u64::MAX) | 1;
        memory.write(draw.below(memory.pages()), value);
    }
}

/// Each page is there, and not zero.
fn fill(memory: &Memory) {
    (0..memory.pages()).for_each(|page| memory.write(page, page + 1));
}

#[test]
fn a_round_has_each_page_that_changed_and_no_other() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        fill(&memory);
        log.start().expect("the log starts");
        let (mut copy, mut draw) = (Copy::of(&memory), Draw(7));
        let mut round = PageSet::new(log.layout());
        for number in 0..50 {
            scribble(&memory, &mut draw, number * number);
            let changed = copy.changed(&memory);
            take(&mut log, &mut round).expect("a round");
            assert_eq!(round.regions()[0].pages().collect::<BTreeSet<_>>(), changed, "{kind:?}");
            copy.deliver(&round, &memory);
        }
    });
}

#[test]
fn a_page_that_was_never_there_is_named_when_it_is_written_and_not_before() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}: nothing was written");
        memory.write(0, 1);
        memory.write(700, 2);
        memory.write(PAGES - 1, 3);
        assert_eq!(next(&mut log), BTreeSet::from([0, 700, PAGES - 1]), "{kind:?}");
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}: nothing was written since");
    });
}

#[test]
fn reading_marks_no_page() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        (0..memory.pages()).step_by(2).for_each(|page| memory.write(page, 1));
        log.start().expect("the log starts");
        (0..memory.pages()).for_each(|page| {
            memory.read(page);
        });
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
    });
}

#[test]
fn every_page_is_found_where_no_two_are_neighbours() {
    // More runs than a scan has room for.
    let memory = Memory::new(Kind::Private, 20_001).expect("memory");
    let Some(mut log) = log_of(&memory) else { return };
    log.start().expect("the log starts");
    let odd: BTreeSet<u64> = (0..memory.pages()).step_by(2).collect();
    odd.iter().for_each(|&page| memory.write(page, 1));
    assert_eq!(next(&mut log), odd);
    assert_eq!(next(&mut log), BTreeSet::new());
}

#[test]
fn nothing_is_lost_while_threads_write() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        let mut copy = Copy::of(&memory);
        let mut round = PageSet::new(log.layout());
        let going = AtomicBool::new(true);
        std::thread::scope(|scope| {
            for seed in [1, 2] {
                let (memory, going) = (&memory, &going);
                scope.spawn(move || {
                    let mut draw = Draw(seed);
                    while going.load(Ordering::Relaxed) {
                        scribble(memory, &mut draw, 10);
                    }
                });
            }
            let _end = EndOfWriting(&going);
            let mut pages = 0;
            while pages < 20 * PAGES {
                take(&mut log, &mut round).expect("a round");
                copy.deliver(&round, &memory);
                pages += round.count();
            }
        });
        take(&mut log, &mut round).expect("the last round");
        copy.deliver(&round, &memory);
        assert_eq!(copy.changed(&memory), BTreeSet::new(), "{kind:?}");
    });
}

#[test]
fn what_is_owed_is_in_the_next_round_and_in_one() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        let mut round = PageSet::new(log.layout());
        memory.write(5, 1);
        memory.write(900, 1);
        take(&mut log, &mut round).expect("a round");
        log.owe(&round);
        memory.write(6, 1);
        assert_eq!(next(&mut log), BTreeSet::from([5, 6, 900]), "{kind:?}");
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
    });
}

#[test]
fn a_log_that_starts_anew_begins_empty() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        memory.write(5, 1);
        let mut round = PageSet::new(log.layout());
        round.regions_mut()[0].insert(9);
        log.owe(&round);
        log.start().expect("the log starts anew");
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
        memory.write(5, 2);
        assert_eq!(next(&mut log), BTreeSet::from([5]), "{kind:?}");
    });
}

/// Ends the writers, also where the test fails.
struct EndOfWriting<'a>(&'a AtomicBool);

impl Drop for EndOfWriting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// How a log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Stopped,
    Dropped,
}

#[test]
fn when_a_log_has_ended_memory_is_as_usable_as_before() {
    each_kind(|kind, memory| {
        for end in [End::Stopped, End::Dropped] {
            let Some(mut log) = log_of(&memory) else { return };
            fill(&memory);
            log.start().expect("the log starts");
            let before = Copy::of(&memory);
            match end {
                End::Stopped => log.stop().expect("it stops"),
                End::Dropped => drop(log),
            }
            assert_eq!(before.changed(&memory), BTreeSet::new(), "{kind:?} {end:?}");
            (0..memory.pages()).for_each(|page| memory.write(page, 99));
            // Memory that is still registered with one userfaultfd could not be with another.
            let mut other = log_of(&memory).expect("as before");
            other.start().expect("nobody else has it");
        }
    });
}

#[test]
fn a_log_that_is_off_or_over_another_layout_says_so() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(mut log) = log_of(&memory) else { return };
    let mut round = PageSet::new(log.layout());
    let off = log.collect(&mut round).expect_err("it is off");
    assert!(matches!(off, ProcessError::Misuse(Misuse::Off)), "{off}");
    log.start().expect("the log starts");
    let mut other = PageSet::new(&Layout::default());
    let elsewhere = log.collect(&mut other).expect_err("another layout");
    assert!(matches!(elsewhere, ProcessError::Misuse(Misuse::OtherLayout)), "{elsewhere}");
    log.stop().expect("it stops");
    log.stop().expect("twice is the same as once");
    let off = log.collect(&mut round).expect_err("it is off again");
    assert!(matches!(off, ProcessError::Misuse(Misuse::Off)), "{off}");
}

#[test]
fn each_region_has_its_own_pages() {
    let (one, other) = (Memory::new(Kind::Private, 100), Memory::new(Kind::Shared, 77));
    let (one, other) = (one.expect("memory"), other.expect("memory"));
    if log_of(&one).is_none() {
        return;
    }
    let mappings = vec![mapping(&one, 4, 0), mapping(&other, 2, 100)];
    // SAFETY: M: both are dropped after the log.
    #[allow(unsafe_code)]
    let mut log = unsafe { ProcessLog::new(mappings) }.expect("a log");
    log.start().expect("the log starts");
    one.write(99, 1);
    other.write(0, 1);
    other.write(76, 1);
    let mut round = PageSet::new(log.layout());
    take(&mut log, &mut round).expect("a round");
    assert_eq!(round.regions()[0].pages().collect::<Vec<_>>(), [99]);
    assert_eq!(round.regions()[1].pages().collect::<Vec<_>>(), [0, 76]);
}

#[test]
fn the_same_addresses_in_two_regions_are_refused() {
    let memory = Memory::new(Kind::Shared, PAGES).expect("memory");
    if log_of(&memory).is_none() {
        return;
    }
    let twice = || vec![mapping(&memory, 0, 0), mapping(&memory, 1, PAGES)];
    // SAFETY: M: it stays mapped until the end of the test.
    #[allow(unsafe_code)]
    let log = unsafe { ProcessLog::new(twice()) }.expect_err("it would share the writes");
    assert!(matches!(log, ProcessError::Aliased(Aliased { first: 0, second: 1 })), "{log}");
    // SAFETY: M, as above.
    #[allow(unsafe_code)]
    let watch = unsafe { WriteWatch::new(twice(), Writers::Threads) }.expect_err("likewise");
    assert!(matches!(watch, WatchError::Aliased(Aliased { first: 0, second: 1 })), "{watch}");
}

#[test]
fn the_same_memory_at_two_addresses_is_logged_where_it_was_written() {
    let memory = Memory::new(Kind::Shared, PAGES).expect("memory");
    let other = memory.again().expect("mapped twice");
    if log_of(&memory).is_none() {
        return;
    }
    let mappings = vec![mapping(&memory, 0, 0), mapping(&other, 1, PAGES)];
    // SAFETY: M: both are dropped after the log.
    #[allow(unsafe_code)]
    let mut log = unsafe { ProcessLog::new(mappings) }.expect("they are other addresses");
    log.start().expect("the log starts");
    memory.write(7, 1);
    other.write(9, 1);
    let mut round = PageSet::new(log.layout());
    take(&mut log, &mut round).expect("a round");
    let named = [0, 1].map(|region| round.regions()[region].pages().collect::<Vec<_>>());
    assert_eq!(named, [[7], [9]]);
}

/// docs/process.md: what is named though it did not change.
#[test]
fn pages_that_are_made_ready_to_be_written_or_given_back_before_they_were_there_are_named() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        let copy = Copy::of(&memory);
        memory.advise(5, 3, Advice::LinuxPopulateWrite).expect("made ready");
        assert_eq!(next(&mut log), BTreeSet::from([5, 6, 7]), "{kind:?}");
        memory.advise(100, 2, Advice::LinuxDontNeed).expect("given back");
        let is_marked = matches!(kind, Kind::Private | Kind::HugePages);
        let named = if is_marked { BTreeSet::from([100, 101]) } else { BTreeSet::new() };
        assert_eq!(next(&mut log), named, "{kind:?}");
        assert_eq!(copy.changed(&memory), BTreeSet::new(), "{kind:?}");
    });
}
