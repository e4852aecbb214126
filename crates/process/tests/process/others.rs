//! Forked processes, other mappings and other processes: who sees what.

use crate::memory::{Kind, Memory};
use crate::oracle::next;
use crate::{PAGES, log_of};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::os::unix::fs::FileExt;
use vellum_memory::{DirtySource, PageSet};
use vellum_process::ProcessError;

/// Does `work` in a forked process, which ends with what it returns.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> Pid {
    // SAFETY: the C library's allocator is usable in the child, which takes no lock of another's
    // thread and ends without the harness.
    #[allow(unsafe_code)]
    match unsafe { libc::fork() } {
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: it ends this process only.
            #[allow(unsafe_code)]
            unsafe {
                libc::_exit(code)
            }
        }
        child => Pid::from_raw(child).expect("it forks"),
    }
}

/// Waits for `child`, which says that all was well.
pub(crate) fn ended_well(child: Pid) {
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).expect("ours").expect("it ends");
    assert_eq!(status.exit_status(), Some(0));
}

#[test]
fn a_write_through_another_mapping_of_the_same_memory_is_not_seen() {
    let memory = Memory::new(Kind::Shared, PAGES).expect("memory");
    let other = memory.again().expect("mapped twice");
    let Some(mut log) = log_of(&memory) else { return };
    log.start().expect("the log starts");
    other.write(7, 1);
    memory.write(8, 1);
    assert_eq!(memory.read(7)[1], 1, "it is the same memory");
    assert_eq!(next(&mut log), BTreeSet::from([8]));
    drop(log);
    let mut log = log_of(&other).expect("as before");
    log.start().expect("the log starts");
    other.write(7, 2);
    memory.write(8, 2);
    assert_eq!(next(&mut log), BTreeSet::from([7]), "a log over the other mapping sees it");
}

#[test]
fn a_write_to_the_file_behind_the_memory_is_not_seen() {
    let memory = Memory::new(Kind::Shared, PAGES).expect("memory");
    let Some(mut log) = log_of(&memory) else { return };
    log.start().expect("the log starts");
    let file = std::fs::File::from(memory.file().try_clone_to_owned().expect("a descriptor"));
    file.write_all_at(&[9], 3 * 4096).expect("written");
    assert_eq!((memory.peek(3), next(&mut log)), (9, BTreeSet::new()));
}

#[test]
fn a_write_by_another_process_is_not_seen() {
    for kind in [Kind::Shared, Kind::Private] {
        let memory = Memory::new(kind, PAGES).expect("memory");
        (0..PAGES).for_each(|page| memory.write(page, 1));
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        ended_well(fork(|| {
            memory.write(7, 2);
            memory.write(PAGES - 1, 2);
            0
        }));
        let there = u64::from(kind == Kind::Shared) * 2;
        assert_eq!((memory.read(7)[2], next(&mut log)), (there, BTreeSet::new()), "{kind:?}");
    }
}

#[test]
fn forking_loses_no_write_of_this_process() {
    for kind in [Kind::Private, Kind::HugePages, Kind::Shared, Kind::SharedHugePages] {
        let memory = Memory::new(kind, PAGES).expect("memory");
        (0..PAGES).for_each(|page| memory.write(page, 1));
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        memory.write(1, 2);
        memory.write(2, 2);
        let (from, into) = rustix::pipe::pipe().expect("a pipe");
        let child = fork(|| i32::from(rustix::io::read(&from, &mut [0]) != Ok(1)));
        // While the pages are shared with the child: written before and after, only after, twice.
        memory.write(2, 3);
        memory.write(3, 3);
        assert_eq!(next(&mut log), BTreeSet::from([1, 2, 3]), "{kind:?}");
        memory.write(3, 4);
        memory.write(4, 4);
        assert_eq!(next(&mut log), BTreeSet::from([3, 4]), "{kind:?}");
        rustix::io::write(&into, &[0]).expect("it waits");
        ended_well(child);
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
    }
}

#[test]
fn a_forked_process_cannot_use_the_log_and_dropping_it_there_changes_nothing() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(mut log) = log_of(&memory) else { return };
    log.start().expect("the log starts");
    let mut round = PageSet::new(log.layout());
    let mut log = ManuallyDrop::new(log);
    ended_well(fork(|| {
        let refused = [log.collect(&mut round), log.start(), log.stop()];
        // SAFETY: in this process it is dropped once, and not used again.
        #[allow(unsafe_code)]
        drop(unsafe { std::ptr::read(&raw const *log) });
        let all = refused.iter().all(|refused| matches!(refused, Err(ProcessError::Forked)));
        i32::from(!all)
    }));
    let mut log = ManuallyDrop::into_inner(log);
    memory.write(7, 1);
    assert_eq!(next(&mut log), BTreeSet::from([7]));
}
