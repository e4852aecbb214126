//! Forked processes, other mappings and other processes: who sees what.

use crate::memory::{Kind, Memory};
use crate::oracle::next;
use crate::{PAGES, each_kind, log_of};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::os::unix::fs::FileExt;
use vellum_memory::{DirtySource, PageSet};
use vellum_process::ProcessError;

/// So many seconds that only a hang lasts longer.
const PATIENCE: u32 = 60;

/// A forked process, which is ended where the test does not wait for its end.
pub(crate) struct Child(Option<Pid>);

/// Does `work` in a forked process, which ends with what it returns, or by a signal if it hangs. It takes
/// no lock that another thread may have held: none of the gate's, and no output.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> Child {
    // SAFETY: the C library's allocator is usable in the child, which takes no lock of another's
    // thread and ends without the harness.
    #[allow(unsafe_code)]
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: it takes a number.
            #[allow(unsafe_code)]
            unsafe {
                libc::alarm(PATIENCE)
            };
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: it ends this process only.
            #[allow(unsafe_code)]
            unsafe {
                libc::_exit(code)
            }
        }
        child => Child(Some(Pid::from_raw(child).expect("it forks"))),
    }
}

impl Child {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.0.expect("it is there"), signal).expect("it is ours");
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> WaitStatus {
        let child = self.0.take();
        waitpid(child, WaitOptions::empty()).expect("ours").expect("it ends").1
    }

    /// Waits for its end, which says that all was well.
    pub(crate) fn ends_well(self) {
        assert_eq!(self.end().exit_status(), Some(0));
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(child) = self.0 {
            // The test has failed, and says why.
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
    }
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
        let child = fork(|| {
            memory.write(7, 2);
            memory.write(PAGES - 1, 2);
            0
        });
        child.ends_well();
        let there = u64::from(kind == Kind::Shared) * 2;
        assert_eq!((memory.read(7)[2], next(&mut log)), (there, BTreeSet::new()), "{kind:?}");
    }
}

#[test]
fn forking_loses_no_write_of_this_process() {
    each_kind(|kind, memory| {
        (0..PAGES).for_each(|page| memory.write(page, 1));
        let Some(mut log) = log_of(&memory) else { return };
        log.start().expect("the log starts");
        memory.write(1, 2);
        memory.write(2, 2);
        let (from, into) = rustix::pipe::pipe().expect("a pipe");
        let mut into = Some(into);
        let child = fork(|| {
            // With its own end open it would wait for ever, were this process gone.
            into = None;
            i32::from(rustix::io::read(&from, &mut [0]) != Ok(1))
        });
        let into = into.expect("it is the child's that is closed");
        // While the pages are shared with the child: written before and after, only after, twice.
        memory.write(2, 3);
        memory.write(3, 3);
        assert_eq!(next(&mut log), BTreeSet::from([1, 2, 3]), "{kind:?}");
        memory.write(3, 4);
        memory.write(4, 4);
        assert_eq!(next(&mut log), BTreeSet::from([3, 4]), "{kind:?}");
        assert_eq!(rustix::io::write(&into, &[0]), Ok(1));
        child.ends_well();
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
    });
}

#[test]
fn a_forked_process_cannot_use_the_log_and_dropping_it_there_changes_nothing() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(mut log) = log_of(&memory) else { return };
    log.start().expect("the log starts");
    let mut round = PageSet::new(log.layout());
    let mut log = ManuallyDrop::new(log);
    let child = fork(|| {
        let refused = [log.collect(&mut round), log.start(), log.stop()];
        // SAFETY: in this process it is dropped once, and not used again.
        #[allow(unsafe_code)]
        drop(unsafe { std::ptr::read(&raw const *log) });
        let all = refused.iter().all(|refused| matches!(refused, Err(ProcessError::Forked)));
        i32::from(!all)
    });
    child.ends_well();
    let mut log = ManuallyDrop::into_inner(log);
    memory.write(7, 1);
    assert_eq!(next(&mut log), BTreeSet::from([7]));
}
