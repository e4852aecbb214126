//! A hypervisor of our own, as small as one can be: frames from the heap, memory that exists where
//! it was written, CPUs that are numbers, and TLBs that are one map. It counts, takes snapshots of
//! all table frames, runs out of frames and forgets shoot-downs, all on request.
#![allow(unsafe_code)]

mod cpu;
mod frames;

pub use cpu::{Cpu, Refused, VirtualCpu};
pub use frames::{Snapshot, changed_entries};

use crate::model::page_of;
use frames::Bank;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vellum_memory::guest::Page;
use vellum_mmu::{Backing, BackingWrite, Embedder, Frame, GuestPage, NoBacking, Scope};
use vellum_pte::{AddressSpace, Gfn, Gpa, Level, Pfn};

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

/// A CPU's cached translation: whose, of which page, to which frame, and whether stores pass.
type Tlb = BTreeMap<(usize, AddressSpace, Gfn), (Pfn, CachedWrite)>;

/// Whether a cached translation lets stores pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CachedWrite {
    Allowed,
    Refused,
}

/// What the hypervisor brings, for one VM.
#[derive(Debug, Default)]
pub struct Hypervisor<M = Plenty> {
    memory: M,
    bank: Mutex<Bank>,
    /// The guest's bytes by host address. A guest frame number is a host frame number here.
    bytes: Mutex<BTreeMap<u64, u8>>,
    tlb: Mutex<Tlb>,
    shoot_downs: AtomicU64,
    /// Which shoot-down does nothing; from 1 on.
    forgotten: AtomicU64,
}

impl<M: Memory> Hypervisor<M> {
    /// With memory as `memory` says.
    pub fn with_memory(memory: M) -> Self {
        Self {
            memory,
            bank: Mutex::default(),
            bytes: Mutex::default(),
            tlb: Mutex::default(),
            shoot_downs: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
        }
    }

    /// Its `number`-th shoot-down, from 1 on, will do nothing.
    pub fn forget_shoot_down(&self, number: u64) {
        self.forgotten.store(number, Ordering::Relaxed);
    }

    /// How many shoot-downs it was asked for.
    pub fn shoot_downs(&self) -> u64 {
        self.shoot_downs.load(Ordering::Relaxed)
    }

    /// What all table frames hold now.
    pub fn snapshot(&self) -> Snapshot {
        locked(&self.bank).snapshot()
    }

    /// How many table frames are handed out.
    pub fn live_frames(&self) -> usize {
        locked(&self.bank).live()
    }

    /// Eight bytes of guest memory, read behind the tables' back.
    pub fn peek(&self, at: Gpa) -> u64 {
        let bytes = locked(&self.bytes);
        let byte = |index| bytes.get(&(at.get() + index)).copied().unwrap_or(0);
        u64::from_le_bytes(std::array::from_fn(|index| byte(index as u64)))
    }

    /// A page of guest memory, read behind the tables' back.
    pub fn page(&self, gfn: Gfn) -> Page {
        page_of(&locked(&self.bytes), gfn.gpa().get())
    }

    fn poke(&self, at: u64, bytes: &[u8]) {
        let mut memory = locked(&self.bytes);
        memory.extend((at..).zip(bytes.iter().copied()));
    }
}

impl<M: Memory> Embedder for Hypervisor<M> {
    fn allocate_frame(&self) -> Option<Frame> {
        if !self.memory.has_frame() {
            return None;
        }
        self.memory.unlimited(|| Some(locked(&self.bank).allocate()))
    }

    fn release_frame(&self, frame: Frame) {
        self.memory.unlimited(|| locked(&self.bank).release(&frame));
    }

    fn shoot_down(&self, _scope: Scope) {
        let number = self.shoot_downs.fetch_add(1, Ordering::Relaxed) + 1;
        if number != self.forgotten.load(Ordering::Relaxed) {
            self.memory.unlimited(|| locked(&self.tlb).clear());
        }
    }

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let (frame, write) = (Pfn::new(page.memory.0 + page.index), BackingWrite::Allowed);
        Some(Backing { frame, write, largest: Level::L1 })
    }

    fn write(&self, page: GuestPage, offset: u64, bytes: &[u8]) -> Result<(), NoBacking> {
        let at = Gfn::new(page.memory.0 + page.index).gpa().get() + offset;
        self.memory.unlimited(|| self.poke(at, bytes));
        Ok(())
    }
}

/// What it protects is whole between any two statements that can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
