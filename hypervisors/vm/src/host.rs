//! What this hypervisor brings to the library.
#![allow(unsafe_code)]

use crate::frames::{allocate_frames, release_frames};
use crate::memory::GuestMemory;
use crate::processor::Processor;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vellum_mmu::{Backing, BackingWrite, Embedder, Frame, GuestPage, NoBacking, Scope};
use vellum_pte::{AddressSpace, Gpa, Level, PAGE_SIZE};

/// One VM's host side. Its memory is mapped one to one, so a physical address is a pointer.
pub struct Host<P> {
    memory: GuestMemory,
    largest: Level,
    policy: ShootDowns,
    shoot_downs: AtomicU64,
    vcpus: AtomicU32,
    processor: PhantomData<fn() -> P>,
}

/// Whether shoot-downs are made. They are; a proof that hardware needs them leaves them out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShootDowns {
    /// Each.
    Made,
    /// None: a deliberate bug.
    Skipped,
}

impl<P> Host<P> {
    /// A host whose guest has `memory`, and leaves of 4 KiB.
    #[must_use]
    pub const fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            largest: Level::L1,
            policy: ShootDowns::Made,
            shoot_downs: AtomicU64::new(0),
            vcpus: AtomicU32::new(0),
            processor: PhantomData,
        }
    }

    /// The same with leaves up to `largest`.
    #[must_use]
    pub fn with_leaves(self, largest: Level) -> Self {
        Self { largest, ..self }
    }

    /// The same with another policy of shoot-downs.
    #[must_use]
    pub fn with_shoot_downs(self, policy: ShootDowns) -> Self {
        Self { policy, ..self }
    }

    /// The guest's memory.
    #[must_use]
    pub const fn memory(&self) -> GuestMemory {
        self.memory
    }

    /// A number that no vCPU of this VM has had.
    pub(crate) fn next_vcpu(&self) -> u32 {
        self.vcpus.fetch_add(1, Ordering::Relaxed)
    }

    /// How many shoot-downs were asked for.
    #[must_use]
    pub fn shoot_downs(&self) -> u64 {
        self.shoot_downs.load(Ordering::Relaxed)
    }
}

impl<P: Processor> Embedder for Host<P> {
    fn allocate_frame(&self) -> Option<Frame> {
        self.allocate_roots(1)
    }

    fn release_frame(&self, frame: Frame) {
        self.release_roots(frame, 1);
    }

    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        allocate_frames(tables, P::publish)
    }

    fn release_roots(&self, first: Frame, tables: u32) {
        // SAFETY: F1: the library gives back what `allocate_roots` gave, when nothing refers to it.
        unsafe { release_frames(first, tables) };
    }

    fn shoot_down(&self, _: Scope) {
        self.shoot_downs.fetch_add(1, Ordering::Relaxed);
        if self.policy == ShootDowns::Made {
            P::shoot_down();
        }
    }

    fn flush_local(&self, gpa: Gpa) {
        P::flush_local(gpa);
    }

    // No interrupt reaches another CPU here: each fault pays a fence of its own.
    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let frame = self.memory.frame(behind(page, 0))?;
        Some(Backing { frame, write: BackingWrite::Allowed, largest: self.largest })
    }

    fn write(&self, page: GuestPage, offset: u64, bytes: &[u8]) -> Result<(), NoBacking> {
        self.memory.write(behind(page, offset), bytes)
    }

    fn drain_logs(&self, log: &mut dyn FnMut(AddressSpace, u64)) {
        P::drain_all_logs(&mut |address| log(crate::SPACE, address));
    }
}

/// A slot's memory is named by where it begins in the guest's memory: a slot that moves keeps it.
fn behind(page: GuestPage, offset: u64) -> Gpa {
    Gpa::new(page.memory.0 + page.index * PAGE_SIZE + offset)
}
