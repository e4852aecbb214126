//! A hypervisor of our own, as small as one can be: frames from the heap, memory that exists where
//! it was written and may move, CPUs that are numbers, and a TLB for each. It counts, takes
//! snapshots of all table frames, runs out of frames and forgets shoot-downs, all on request. Its processors
//! log the pages whose D bits they set, if asked to.
#![allow(unsafe_code)]

mod cpu;
mod frames;
mod host;
mod page_log;
mod sub_pages;
mod tlb;
mod walk;

pub use cpu::{By, Cpu, Entry, Forged, OnRetry, Presence, Refused, Told, VirtualCpu, Way};
pub use frames::{Snapshot, changed_entries};
pub use host::{Backings, Change, Home, HostMemory, Rule};
pub use page_log::PageLogging;

use crate::script::LocalFlushes;
use frames::Bank;
use page_log::PageLog;
use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tlb::Tlb;
use vellum_memory::guest::Page;
use vellum_mmu::{AccessedBits, Backing, Embedder, Frame, GuestPage, NoBacking, Scope};
use vellum_pte::{AddressSpace, Gfn, Gpa, Level};

/// Whoever wants to say when an embedder's memory ends. The embedder's own bookkeeping calls it
/// too, so that only the library's allocations are counted.
pub trait Memory: Send + Sync {
    /// Whether the next frame may be had.
    fn has_frame(&self) -> bool;

    /// Runs the embedder's own work, for which there is always memory.
    fn unlimited<T>(&self, work: impl FnOnce() -> T) -> T;
}

/// Memory without end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plenty;

impl Memory for Plenty {
    fn has_frame(&self) -> bool {
        true
    }

    fn unlimited<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// How many CPUs it has room for.
pub const MOST_CPUS: usize = 64;

thread_local! {
    /// Which CPU this thread is while it is in the library.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// What happens between an answer of [`Embedder::resolve`] and its arrival.
type Interlude = Box<dyn FnOnce() + Send>;

/// What the hypervisor brings, for one VM.
pub struct Hypervisor<M = Plenty> {
    memory: M,
    accessed: AccessedBits,
    bank: Mutex<Bank>,
    most_frames: AtomicUsize,
    host: Mutex<HostMemory>,
    tlbs: [Mutex<Tlb>; MOST_CPUS],
    page_logging: PageLogging,
    page_logs: [Mutex<PageLog>; MOST_CPUS],
    shoot_downs: AtomicU64,
    /// Which shoot-down does nothing; from 1 on.
    forgotten: AtomicU64,
    local_flushes: LocalFlushes,
    interlude: Mutex<Option<Interlude>>,
    /// What happens while the library waits.
    during_wait: Mutex<Option<Interlude>>,
}

impl<M> fmt::Debug for Hypervisor<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hypervisor").field("shoot_downs", &self.shoot_downs).finish_non_exhaustive()
    }
}

impl<M: Memory + Default> Default for Hypervisor<M> {
    fn default() -> Self {
        Self::with_memory(M::default())
    }
}

impl<M: Memory> Hypervisor<M> {
    /// With memory as `memory` says, in small pages, and processors that set A and D.
    pub fn with_memory(memory: M) -> Self {
        Self {
            memory,
            accessed: AccessedBits::Set,
            bank: Mutex::default(),
            most_frames: AtomicUsize::new(usize::MAX),
            host: Mutex::default(),
            tlbs: std::array::from_fn(|_| Mutex::default()),
            page_logging: PageLogging::Absent,
            page_logs: std::array::from_fn(|_| Mutex::default()),
            shoot_downs: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            local_flushes: LocalFlushes::Made,
            interlude: Mutex::new(None),
            during_wait: Mutex::new(None),
        }
    }

    /// With host memory of this kind.
    #[must_use]
    pub fn backed_by(self, rule: Rule) -> Self {
        Self { host: Mutex::new(HostMemory::new(rule)), ..self }
    }

    /// With processors that set A and D, or not: what the library is told too.
    #[must_use]
    pub fn with_accessed_bits(self, accessed: AccessedBits) -> Self {
        Self { accessed, ..self }
    }

    /// With processors that log the pages whose D bits they set, or not.
    #[must_use]
    pub fn with_page_logs(self, page_logging: PageLogging) -> Self {
        Self { page_logging, ..self }
    }

    /// Whose `flush_local` does something or nothing.
    #[must_use]
    pub fn with_local_flushes(self, local_flushes: LocalFlushes) -> Self {
        Self { local_flushes, ..self }
    }

    /// Its `number`-th shoot-down, from 1 on, will do nothing.
    pub fn forget_shoot_down(&self, number: u64) {
        self.forgotten.store(number, Ordering::Relaxed);
    }

    /// How many shoot-downs it was asked for.
    pub fn shoot_downs(&self) -> u64 {
        self.shoot_downs.load(Ordering::Relaxed)
    }

    /// The next answer about what is behind a page is on its way while `work` is done.
    pub fn during_next_answer(&self, work: impl FnOnce() + Send + 'static) {
        *locked(&self.interlude) = Some(Box::new(work));
    }

    /// The next time that the library waits for somebody, `work` is done. What was to be done then and
    /// has not been, is dropped.
    pub fn during_next_wait(&self, work: impl FnOnce() + Send + 'static) {
        *locked(&self.during_wait) = Some(Box::new(work));
    }

    /// What all table frames hold now.
    pub fn snapshot(&self) -> Snapshot {
        locked(&self.bank).snapshot()
    }

    /// No more table frames than `most` from now on.
    pub fn limit_frames(&self, most: usize) {
        self.most_frames.store(most, Ordering::Relaxed);
    }

    /// How many table frames are handed out.
    pub fn live_frames(&self) -> usize {
        locked(&self.bank).live()
    }

    /// Eight bytes of guest memory, read behind the tables' back.
    pub fn peek(&self, at: Gpa) -> u64 {
        let page = self.page(Home(at.gfn().get()));
        let first = usize::try_from(at.offset()).expect("in the page");
        u64::from_le_bytes(page[first..first + 8].try_into().expect("eight"))
    }

    /// A page of guest memory, read behind the tables' back; zero where there is none.
    pub fn page(&self, home: Home) -> Page {
        locked(&self.host).page(home)
    }

    /// The pages of guest memory that were ever written.
    pub fn written(&self) -> Vec<Home> {
        locked(&self.host).written()
    }

    /// Changes what is behind some pages, which the library was told to invalidate.
    pub fn change(&self, homes: Range<Home>, change: Change) {
        self.memory.unlimited(|| locked(&self.host).change(homes, change));
    }

    fn forget(&self, cpu: usize, gfn: Gfn) {
        locked(&self.tlbs[cpu]).forget(gfn);
    }
}

/// A page of a slot, wherever the guest sees it now.
fn home(page: GuestPage) -> Home {
    Home(page.memory.0 + page.index)
}

impl<M: Memory> Embedder for Hypervisor<M> {
    fn allocate_frame(&self) -> Option<Frame> {
        self.allocate_roots(1)
    }

    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        let most = self.most_frames.load(Ordering::Relaxed);
        if !self.memory.has_frame() || self.live_frames() + tables as usize > most {
            return None;
        }
        self.memory.unlimited(|| Some(locked(&self.bank).allocate(tables)))
    }

    fn release_frame(&self, frame: Frame) {
        self.release_roots(frame, 1);
    }

    fn release_roots(&self, first: Frame, tables: u32) {
        self.memory.unlimited(|| locked(&self.bank).release(&first, tables));
    }

    fn shoot_down(&self, _scope: Scope) {
        let number = self.shoot_downs.fetch_add(1, Ordering::Relaxed) + 1;
        if number != self.forgotten.load(Ordering::Relaxed) {
            let clear = || self.tlbs.iter().for_each(|tlb| locked(tlb).clear());
            self.memory.unlimited(clear);
        }
    }

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        let work = locked(&self.during_wait).take();
        match work {
            Some(work) => self.memory.unlimited(work),
            None => std::thread::yield_now(),
        }
    }

    fn flush_local(&self, gpa: Gpa) {
        if self.local_flushes == LocalFlushes::Made {
            self.memory.unlimited(|| self.forget(RUNNING.get(), gpa.gfn()));
        }
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let answer = locked(&self.host).resolve(home(page));
        let interlude = locked(&self.interlude).take();
        interlude.into_iter().for_each(|work| self.memory.unlimited(work));
        answer
    }

    fn write(&self, page: GuestPage, offset: u64, bytes: &[u8]) -> Result<(), NoBacking> {
        self.memory.unlimited(|| locked(&self.host).write(home(page), offset, bytes))
    }

    fn drain_logs(&self, log: &mut dyn FnMut(AddressSpace, u64)) {
        if self.page_logging != PageLogging::Kept {
            return;
        }
        for page_log in &self.page_logs {
            let (space, entries) = self.memory.unlimited(|| locked(page_log).drain());
            entries.iter().for_each(|address| log(space, *address));
            self.memory.unlimited(|| drop(entries));
        }
    }
}

/// Pages of a leaf at `level`.
fn pages_of(level: Level) -> u64 {
    1 << (9 * u32::from(level.get() - 1))
}

/// What it protects is whole between any two statements that can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
