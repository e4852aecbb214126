//! A hypervisor whose VM has an owner, whose threads have numbers, and that does something of our
//! choosing in the middle of a slot change; and a listener that writes down what it hears.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vellum_conformance::hypervisor::Hypervisor;
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Gpa, SlotId};

pub(crate) const SPACE: AddressSpace = AddressSpace::NORMAL;

type Interruption = Box<dyn FnOnce() + Send>;

/// For one vCPU at a time: its barrier is none.
#[derive(Default)]
pub(crate) struct Owned {
    pub(crate) inner: Hypervisor,
    foreign: AtomicBool,
    interruption: Mutex<Option<Interruption>>,
    hold: Mutex<Option<Interruption>>,
}

impl Owned {
    /// From now on whoever calls is not the VM's owner.
    pub(crate) fn change_owner(&self) {
        self.foreign.store(true, Ordering::Relaxed);
    }

    /// The next slot change is interrupted by this, while it keeps faults out.
    pub(crate) fn during_next_slot_change(&self, interruption: impl FnOnce() + Send + 'static) {
        *self.interruption.lock().expect("no panics inside") = Some(Box::new(interruption));
    }

    /// The next write to guest memory is held up by this.
    pub(crate) fn during_next_write(&self, hold: impl FnOnce() + Send + 'static) {
        *self.hold.lock().expect("no panics inside") = Some(Box::new(hold));
    }
}

thread_local! {
    /// Of no value: its address is the thread's number.
    static CALLER: u8 = const { 0 };
}

impl Embedder for Owned {
    fn allocate_frame(&self) -> Option<Frame> {
        self.inner.allocate_frame()
    }

    fn release_frame(&self, frame: Frame) {
        self.inner.release_frame(frame);
    }

    fn shoot_down(&self, scope: Scope) {
        self.inner.shoot_down(scope);
    }

    /// So that [`barrier_all`](Self::barrier_all) is called.
    fn has_barrier_all(&self) -> bool {
        true
    }

    fn barrier_all(&self) {
        let interruption = self.interruption.lock().expect("no panics inside").take();
        if let Some(interruption) = interruption {
            interruption();
        }
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        self.inner.resolve(page)
    }

    fn write(&self, page: GuestPage, offset: u64, bytes: &[u8]) -> Result<(), NoBacking> {
        let hold = self.hold.lock().expect("no panics inside").take();
        if let Some(hold) = hold {
            hold();
        }
        self.inner.write(page, offset, bytes)
    }

    fn may_listen(&self) -> bool {
        !self.foreign.load(Ordering::Relaxed)
    }

    fn caller(&self) -> Option<CallerId> {
        CALLER.with(|mine| NonZeroU64::new(std::ptr::from_ref(mine).addr() as u64).map(CallerId))
    }
}

/// A write that somebody heard of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub(crate) gpa: Gpa,
    pub(crate) bytes: Vec<u8>,
    pub(crate) origin: Origin,
}

/// Hears everything.
#[derive(Default, Debug)]
pub(crate) struct Recorder {
    heard: Mutex<Vec<Heard>>,
    removed: Mutex<Vec<RemovedRegion>>,
}

impl Recorder {
    /// What it has heard since it was last asked.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the writes began that it has heard of since it was last asked.
    pub(crate) fn places(&self) -> Vec<u64> {
        self.heard().into_iter().map(|heard| heard.gpa.get()).collect()
    }

    /// Which regions have gone since it was last asked.
    pub(crate) fn removed(&self) -> Vec<RemovedRegion> {
        std::mem::take(&mut *self.removed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Format, E: Embedder> WriteListener<F, E> for Recorder {
    fn write(&self, _: &Call<'_, F, E>, written: &Written<'_>) {
        let Written { gpa, bytes, origin, .. } = *written;
        let heard = Heard { gpa, bytes: bytes.to_vec(), origin };
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
    }

    fn region_removed(&self, _: &Call<'_, F, E>, removed: &RemovedRegion) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).push(*removed);
    }
}

/// A slot of so many pages from `first` on, in the normal space.
pub(crate) fn slot(id: u16, first: u64, pages: u64) -> SlotSpec {
    let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
    SlotSpec::new(SlotId(id), SPACE, range)
}

/// A VM with these slots, numbered from 0: first page and pages of each.
pub(crate) fn vm<F: Format, E: Embedder>(
    embedder: E,
    config: Config,
    slots: &[(u64, u64)],
) -> Arc<Mmu<F, E>> {
    let mmu = Mmu::new(embedder, config).expect("memory");
    for (id, (first, pages)) in (0..).zip(slots) {
        mmu.create_slot(slot(id, *first, *pages)).expect("it fits");
    }
    Arc::new(mmu)
}

/// How a write of a vCPU to a page ends.
pub(crate) fn write_fault<F: Format, E: Embedder>(mmu: &Mmu<F, E>, page: u64) -> Outcome {
    mmu.vcpu().expect("memory").fault(SPACE, Gfn::new(page).gpa(), Access::Write)
}
