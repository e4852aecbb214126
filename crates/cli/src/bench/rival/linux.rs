//! What Linux on x86-64 has.

pub(in crate::bench) mod kvm;
mod native;
mod protected;
mod scanned;

use super::{Candidate, Rival};
use crate::bench::sample::time;
use native::Native;
use protected::Protected;
use scanned::Scanned;
use std::io;
use std::time::Duration;
use vellum_kvm::{KvmError, Way};
use vellum_memory::guest::GuestMemoryError;
use vellum_migrate::Causes;
use vellum_process::{GuestError, ProcessError};
use vellum_vmm::{MachineError, ProgramError, Status};

/// Why there is nothing to compare with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A native guest's machine cannot be built.
    #[error("{}", Causes(.0))]
    Machine(#[from] MachineError),
    /// A native guest's program does not fit.
    #[error("a native guest cannot be loaded: {0}")]
    Program(#[from] ProgramError),
    /// The kernel's log of a guest.
    #[error("the kernel's log failed: {}", Causes(.0))]
    Log(#[from] KvmError),
    /// The kernel's log of this process.
    #[error("the log of this process's memory failed: {}", Causes(.0))]
    Scan(#[from] ProcessError),
    /// Memory of this process cannot be tracked.
    #[error("this process's memory cannot be tracked: {}", Causes(.0))]
    Memory(#[from] GuestError),
    /// Memory cannot be reached.
    #[error("memory cannot be reached: {0}")]
    Access(#[from] GuestMemoryError),
    /// The guest does not run on.
    #[error("a native guest stopped: {0:?}")]
    Stopped(Status),
    /// Pages that were written were not found.
    #[error("{dirty} pages were written, and {found} found: please report this")]
    Missed {
        /// Written.
        dirty: u64,
        /// Found.
        found: u64,
    },
    /// A thread that stores ended early.
    #[error("a thread panicked")]
    Panicked,
    /// The system refuses.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
}

/// Those that track memory of this process.
pub(in crate::bench) const OF_A_PROCESS: [Candidate; 2] = [
    ("mprotect and SIGSEGV", |pages, threads| Ok(Box::new(Protected::new(pages, threads)?))),
    ("userfaultfd and PAGEMAP_SCAN", |pages, threads| Ok(Box::new(Scanned::new(pages, threads)?))),
];

/// Those that track a guest.
pub(in crate::bench) const OF_A_GUEST: [Candidate; 3] = [
    ("/dev/kvm, clearing get", |pages, vcpus| native(Way::ClearingGet, pages, vcpus)),
    ("/dev/kvm, manual", |pages, vcpus| native(Way::Manual, pages, vcpus)),
    ("/dev/kvm, ring", |pages, vcpus| native(Way::Ring, pages, vcpus)),
];

fn native(way: Way, pages: u64, vcpus: u64) -> Result<Box<dyn Rival>, Error> {
    Ok(Box::new(Native::new(way, pages, vcpus)?))
}

/// How long it takes that so many threads store to so many pages, each to its part in order.
fn rewrite(
    pages: u64,
    threads: u64,
    store: impl Fn(u64) -> Result<(), Error> + Sync,
) -> Result<Duration, Error> {
    let (stored, elapsed) = time(|| {
        std::thread::scope(|scope| {
            let part = |thread| {
                let store = &store;
                let mut range = pages * thread / threads..pages * (thread + 1) / threads;
                scope.spawn(move || range.try_for_each(store))
            };
            let storing: Vec<_> = (0..threads).map(part).collect();
            let mut storing = storing.into_iter();
            storing.try_for_each(|thread| thread.join().unwrap_or(Err(Error::Panicked)))
        })
    });
    stored.map(|()| elapsed)
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
