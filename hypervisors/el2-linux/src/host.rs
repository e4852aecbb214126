//! What this hypervisor brings to the library.
#![allow(unsafe_code)]

use crate::handover::{Handover, Mistake};
use crate::translations;
use core::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::{Backing, BackingWrite, Embedder, Frame, GuestPage, MemoryId, NoBacking, Scope};
use vellum_pte::{Gpa, Level, PAGE_SIZE, Pfn};
use vm::{allocate_frames, release_frames};

/// One VM's host side. The memory behind a slot is named by the host address where it begins, so
/// that devices, which the guest sees where they are, need nothing of their own.
///
/// Every leaf says *normal memory, write-back*. What the guest's own tables say of a device is
/// stronger, and the two are combined to the stronger of both (Arm ARM D8.6.2).
pub(crate) struct Host {
    mistake: Mistake,
    shoot_downs: AtomicU64,
}

impl Host {
    /// A host that does what `handover` says.
    pub(crate) fn new(handover: &Handover) -> Self {
        Self { mistake: handover.mistake, shoot_downs: AtomicU64::new(0) }
    }

    /// How many shoot-downs were asked for.
    pub(crate) fn shoot_downs(&self) -> u64 {
        self.shoot_downs.load(Ordering::Relaxed)
    }
}

/// The memory that begins at a host address.
pub(crate) const fn memory_at(host_first: u64) -> MemoryId {
    MemoryId(host_first)
}

impl Embedder for Host {
    fn allocate_frame(&self) -> Option<Frame> {
        self.allocate_roots(1)
    }

    fn release_frame(&self, frame: Frame) {
        self.release_roots(frame, 1);
    }

    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        allocate_frames(tables, translations::publish)
    }

    fn release_roots(&self, first: Frame, tables: u32) {
        // SAFETY: F1: the library gives back what `allocate_roots` gave, when nothing refers to it.
        unsafe { release_frames(first, tables) };
    }

    fn shoot_down(&self, _: Scope) {
        self.shoot_downs.fetch_add(1, Ordering::Relaxed);
        if self.mistake == Mistake::None {
            translations::forget_all();
        }
    }

    fn flush_local(&self, gpa: Gpa) {
        translations::forget(gpa);
    }

    // Interrupts are the guest's, and none is there for a fence on another CPU: each fault pays its own.
    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let frame = Pfn::of_address(page.memory.0 + page.index * PAGE_SIZE);
        Some(Backing { frame, write: BackingWrite::Allowed, largest: Level::L2 })
    }

    // Nothing is tracked and nothing restricted: no store is ever made in the guest's place.
    fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> {
        Err(NoBacking)
    }
}
