//! Pages whose content is given back to the system read zeros: a change that no store made.

use crate::memory::{HUGE, Kind, Memory, PAGE};
use crate::oracle::{Copy, next};
use crate::{PAGES, log_of};
use rustix::mm::Advice;
use std::collections::BTreeSet;
use vellum_memory::DirtySource;

/// Of a huge page, in small ones.
const HUGE_PAGES: u64 = (HUGE / PAGE) as u64;

/// Memory full of numbers, and its log, which is on and empty.
fn full(kind: Kind) -> Option<(Memory, vellum_process::ProcessLog)> {
    let memory = kind.is_given().then(|| Memory::new(kind, PAGES).expect("memory"))?;
    let mut log = log_of(&memory)?;
    (0..PAGES).for_each(|page| memory.write(page, page + 1));
    log.start().expect("the log starts");
    Some((memory, log))
}

fn range(first: u64, pages: u64) -> BTreeSet<u64> {
    (first..first + pages).collect()
}

#[test]
fn private_pages_that_are_given_back_are_named_once_and_logged_again() {
    for kind in [Kind::Private, Kind::HugePages] {
        // One page, a part of a huge page, one huge page whose table the kernel frees, and all.
        for (first, pages) in [(3, 1), (100, 37), (HUGE_PAGES, HUGE_PAGES), (0, PAGES)] {
            let Some((memory, mut log)) = full(kind) else { continue };
            let copy = Copy::of(&memory);
            memory.advise(first, pages, Advice::LinuxDontNeed).expect("given back");
            let named = next(&mut log);
            assert_eq!(copy.changed(&memory), range(first, pages), "{kind:?}: they read zeros");
            assert_eq!(named, range(first, pages), "{kind:?}");
            assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}: reading marks none of them");
            memory.write(first, 7);
            assert_eq!(next(&mut log), range(first, 1), "{kind:?}");
        }
    }
}

#[test]
fn a_private_page_that_is_given_back_and_written_is_named() {
    for kind in [Kind::Private, Kind::HugePages] {
        let Some((memory, mut log)) = full(kind) else { continue };
        memory.advise(0, HUGE_PAGES, Advice::LinuxDontNeed).expect("given back");
        memory.write(9, 7);
        assert_eq!(next(&mut log), range(0, HUGE_PAGES), "{kind:?}");
        memory.advise(9, 1, Advice::LinuxDontNeed).expect("given back");
        memory.write(9, 8);
        assert_eq!(next(&mut log), range(9, 1), "{kind:?}");
    }
}

#[test]
fn a_private_page_that_is_freed_when_there_is_need_is_named_when_it_is_gone() {
    let Some((memory, mut log)) = full(Kind::Private) else { return };
    let copy = Copy::of(&memory);
    memory.advise(5, 20, Advice::LinuxFree).expect("may be freed");
    // It takes none that another processor is just handling.
    let mut tries = 0..1000;
    while copy.changed(&memory).is_empty() && tries.next().is_some() {
        memory.advise(0, PAGES, Advice::LinuxPageOut).expect("is freed");
    }
    let named = next(&mut log);
    let changed = copy.changed(&memory);
    assert!(!changed.is_empty(), "the kernel frees none");
    assert!(changed.is_subset(&named), "{:?}", changed.difference(&named));
}

#[test]
fn private_pages_of_a_file_are_the_files_again_and_named_only_where_they_were_written_since() {
    // A few, and all that a page table is over.
    for pages in [20, HUGE_PAGES] {
        let Some((memory, mut log)) = full(Kind::PrivateFile) else { return };
        let copy = Copy::of(&memory);
        memory.write(4, 99);
        memory.advise(0, pages, Advice::LinuxDontNeed).expect("given back");
        let named = next(&mut log);
        assert_eq!(copy.changed(&memory), range(0, pages), "they are the file's, which has zeros");
        // docs/process.md: who gives such memory back marks it in a log of their own.
        assert_eq!(named, BTreeSet::from([4]));
        assert_eq!(next(&mut log), BTreeSet::new(), "reading marks none of them");
        memory.write(5, 98);
        assert_eq!(next(&mut log), BTreeSet::from([5]), "it is logged as before");
    }
}

#[test]
fn shared_pages_that_only_leave_this_mapping_keep_their_content_and_their_log() {
    for kind in [Kind::Shared, Kind::SharedHugePages] {
        // A few, and all that a page table is over.
        for pages in [20, HUGE_PAGES] {
            let Some((memory, mut log)) = full(kind) else { continue };
            let copy = Copy::of(&memory);
            memory.write(4, 99);
            memory.advise(0, pages, Advice::LinuxDontNeed).expect("unmapped");
            let named = next(&mut log);
            assert_eq!(copy.changed(&memory), BTreeSet::from([4]), "{kind:?}");
            assert_eq!(named, BTreeSet::from([4]), "{kind:?}: what was written is not forgotten");
            memory.write(5, 98);
            assert_eq!(next(&mut log), BTreeSet::from([5]), "{kind:?}");
        }
    }
}

/// docs/process.md: the kernel may protect it as one, and name all of it.
#[test]
fn a_shared_huge_page_that_left_this_mapping_and_was_mapped_whole_again_loses_no_write() {
    let Some((memory, mut log)) = full(Kind::SharedHugePages) else { return };
    (0..HUGE_PAGES).for_each(|page| memory.write(page, page + 2));
    memory.advise(0, HUGE_PAGES, Advice::LinuxDontNeed).expect("unmapped");
    memory.read(3);
    assert_eq!(next(&mut log), range(0, HUGE_PAGES));
    for page in [3, 4, 3] {
        memory.write(page, 98);
        let named = next(&mut log);
        assert!(named.contains(&page) && named.is_subset(&range(0, HUGE_PAGES)), "{named:?}");
        assert_eq!(next(&mut log), BTreeSet::new());
    }
}

#[test]
fn holes_that_are_punched_into_the_file_are_seen_where_the_page_was_written_since_and_no_others() {
    type Punch = fn(&Memory) -> std::io::Result<()>;
    let ways: [Punch; 2] =
        [|memory| memory.punch(4, 2), |memory| memory.advise(4, 2, Advice::LinuxRemove)];
    let kinds = [Kind::Shared, Kind::SharedHugePages];
    for (way, kind) in ways.into_iter().flat_map(|way| kinds.map(|kind| (way, kind))) {
        let Some((memory, mut log)) = full(kind) else { continue };
        let copy = Copy::of(&memory);
        memory.write(4, 99);
        way(&memory).expect("a hole");
        let named = next(&mut log);
        assert_eq!(copy.changed(&memory), BTreeSet::from([4, 5]), "both read zeros");
        // docs/process.md: who punches holes marks them in a log of their own.
        assert_eq!(named, BTreeSet::from([4]));
        memory.write(5, 98);
        assert_eq!(next(&mut log), BTreeSet::from([5]), "it is logged as before");
    }
}

#[test]
fn protected_pages_do_not_become_one_huge_page() {
    let Some((memory, mut log)) = full(Kind::Private) else { return };
    memory.advise(0, PAGES, Advice::LinuxHugepage).expect("may be huge");
    memory.collapse(0, HUGE_PAGES).expect_err("a page is protected");
    memory.write(1, 5);
    assert_eq!(next(&mut log), BTreeSet::from([1]));
}

#[test]
fn pages_that_become_one_huge_page_lose_nothing() {
    let Some((memory, mut log)) = full(Kind::Private) else { return };
    (0..HUGE_PAGES).for_each(|page| memory.write(page, 3));
    memory.advise(0, PAGES, Advice::LinuxHugepage).expect("may be huge");
    // Whether it finds a huge page is the kernel's business, and nothing is lost either way.
    println!("collapsed: {:?}", memory.collapse(0, HUGE_PAGES));
    assert_eq!(next(&mut log), range(0, HUGE_PAGES));
    memory.write(11, 5);
    assert_eq!(next(&mut log), range(11, 1));
    assert_eq!(next(&mut log), BTreeSet::new());
}
