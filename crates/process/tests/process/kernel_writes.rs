//! What the kernel writes for a thread: it must be logged, and must not fail.

use crate::memory::{Memory, PAGE};
use crate::oracle::next;
use crate::{PAGES, each_kind, log_of, watch_of};
use rustix::io::{Errno, IoSliceMut};
use rustix::pipe::pipe;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use vellum_memory::{DirtySource, Gfn, GfnRange};
use vellum_process::Writers;

/// A descriptor with `pages` pages to be read, none of zeros.
fn full_pipe(pages: usize) -> OwnedFd {
    let (from, into) = pipe().expect("a pipe");
    let written =
        rustix::io::write(&into, &vec![0x5a; pages * PAGE]).expect("room for a few pages");
    assert_eq!(written, pages * PAGE);
    from
}

#[test]
fn a_read_into_memory_is_logged() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        memory.write(700, 1);
        log.start().expect("the log starts");
        // Two pages that were never there, and one that was.
        for first in [10, 700] {
            let got =
                rustix::io::read(full_pipe(2), memory.bytes(first, 2)).expect("it does not fail");
            assert_eq!((got, memory.peek(first + 1)), (2 * PAGE, 0x5a), "{kind:?}");
        }
        assert_eq!(next(&mut log), BTreeSet::from([10, 11, 700, 701]), "{kind:?}");
        // And again, now that they are protected.
        rustix::io::read(full_pipe(1), memory.bytes(11, 1)).expect("it does not fail");
        assert_eq!(next(&mut log), BTreeSet::from([11]), "{kind:?}");
    });
}

#[test]
fn a_read_into_several_parts_of_memory_is_logged() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        let mut parts = [3, 900, 4].map(|page| IoSliceMut::new(memory.bytes(page, 1)));
        rustix::io::readv(full_pipe(3), &mut parts).expect("it does not fail");
        assert_eq!(next(&mut log), BTreeSet::from([3, 4, 900]), "{kind:?}");
    });
}

/// docs/process.md: it pins the page first and copies later, so that a round between the two has it
/// without the bytes.
#[test]
fn a_write_from_outside_is_logged_if_no_round_is_taken_meanwhile() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        let outside =
            OpenOptions::new().write(true).open("/proc/self/mem").expect("our own memory");
        log.start().expect("the log starts");
        let at = memory.base().addr() as u64 + 5 * PAGE as u64;
        outside.write_all_at(&[7; 8], at).expect("as a debugger does");
        assert_eq!((next(&mut log), memory.peek(5)), (BTreeSet::from([5]), 7), "{kind:?}");
    });
}

#[test]
fn what_the_kernel_only_reads_is_not_logged() {
    each_kind(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        memory.write(0, 1);
        log.start().expect("the log starts");
        let (_from, into) = pipe().expect("a pipe");
        rustix::io::write(&into, memory.bytes(0, 2)).expect("room");
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
    });
}

/// The control: where somebody has to answer, and may not answer the kernel, its write fails.
#[test]
fn a_watch_over_threads_makes_the_kernels_writes_fail() {
    each_kind(|kind, memory| {
        let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
        watch.protect(0, whole(&memory)).expect("protected");
        let refused = rustix::io::read(full_pipe(1), memory.bytes(1, 1));
        assert_eq!(refused, Err(Errno::FAULT), "{kind:?}");
        watch.allow(0, whole(&memory)).expect("allowed");
        assert_eq!(rustix::io::read(full_pipe(1), memory.bytes(1, 1)), Ok(PAGE), "{kind:?}");
    });
}

#[test]
fn a_watch_over_the_kernel_too_holds_it_up_and_lets_it_go_on() {
    each_kind(|kind, memory| {
        let Some(watch) = watch_of(&memory, Writers::ThreadsAndKernel) else { return };
        watch.protect(0, whole(&memory)).expect("protected");
        std::thread::scope(|scope| {
            let _release = crate::watching::Release(&watch);
            let reader = scope.spawn(|| rustix::io::read(full_pipe(1), memory.bytes(PAGES - 1, 1)));
            let event = crate::watching::event(&watch);
            assert_eq!(memory.peek(PAGES - 1), 0, "{kind:?}: it stands before its write");
            watch.allow(event.region, event.page).expect("allowed");
            assert_eq!(reader.join().expect("no panic"), Ok(PAGE), "{kind:?}");
        });
        assert_eq!(memory.peek(PAGES - 1), 0x5a, "{kind:?}");
    });
}

fn whole(memory: &Memory) -> GfnRange {
    GfnRange::new(Gfn::new(crate::BASE), memory.pages()).expect("a range")
}
