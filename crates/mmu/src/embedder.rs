//! The contract: what a hypervisor brings.

use crate::frame::Frame;
use vellum_pte::{AddressSpace, Gfn, Gpa, Level, Pfn};

/// What a hypervisor brings. One value belongs to one VM.
///
/// No function is called with a lock of the library held, except [`relax`](Self::relax) (which
/// is called while one is waited for, with others held) and
/// [`barrier_all`](Self::barrier_all) (which a slot change makes while faults are kept out).
/// [`resolve`](Self::resolve), [`write`](Self::write), [`allocate_frame`](Self::allocate_frame)
/// and [`release_frame`](Self::release_frame) are called inside the read side: a slot change waits
/// until they return, and they must not call back into the library, nor wait for somebody who is
/// in a slot change.
pub trait Embedder: Send + Sync {
    /// A zeroed frame for a table, or `None` when there is no more: the fault or call that wanted
    /// it reports out of memory, and the VM goes on.
    fn allocate_frame(&self) -> Option<Frame>;

    /// Takes a frame back. No TLB, no walker of the library and no entry refers to it any more:
    /// it never was linked, or [`shoot_down`](Self::shoot_down) has returned since it was unlinked.
    fn release_frame(&self, frame: Frame);

    /// Makes every CPU that may cache translations of this VM, running or not, forget those of
    /// `scope`. On return no access can use one.
    ///
    /// - EPT: INVEPT on each such CPU, or before its next VM entry (Intel SDM vol. 3C, 29.4.3).
    /// - NPT: a new ASID or TLB_CONTROL at each VMRUN that follows (AMD APM vol. 2, 15.16).
    fn shoot_down(&self, scope: Scope);

    /// Whether [`barrier_all`](Self::barrier_all) does what it says. Asked once, when the VM is
    /// made. If not, each fault pays a fence of its own.
    fn has_barrier_all(&self) -> bool;

    /// A full memory barrier on every CPU that runs a fault of this VM (`membarrier` on Linux, an
    /// inter-processor interrupt elsewhere). Called before a slot change, never on a fault.
    fn barrier_all(&self);

    /// Something worth doing while a lock is contended: yield, or pause. Whoever is waited for may
    /// be in [`barrier_all`](Self::barrier_all): a CPU that waits here with interrupts off must
    /// answer that one all the same.
    fn relax(&self);

    /// Forgets this CPU's cached refusal for one address, after an entry was opened. Where hardware
    /// never caches a refusal (x86: Intel SDM vol. 3C, 29.4.3.1; AMD APM vol. 2, 5.5), nothing.
    fn flush_local(&self, gpa: Gpa) {
        let _ = gpa;
    }

    /// The host memory behind a page of a memslot, or `None` where there is none (yet): the fault
    /// ends as [`Outcome::NoBacking`](crate::Outcome::NoBacking). The answer must stay true while
    /// the slot exists.
    fn resolve(&self, space: AddressSpace, gfn: Gfn) -> Option<Backing>;

    /// Copies `bytes` into guest memory at `gpa`, for [`GuestWriter`](crate::GuestWriter). They
    /// lie in one page of a memslot.
    ///
    /// # Errors
    /// [`NoBacking`]; nothing was written.
    fn write(&self, space: AddressSpace, gpa: Gpa, bytes: &[u8]) -> Result<(), NoBacking>;
}

/// The host memory behind a guest page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backing {
    /// The host frame.
    pub frame: Pfn,
    /// Whether the guest may write it.
    pub write: BackingWrite,
    /// The largest leaf that the host memory allows here. Leaves of [`Level::L1`] are made
    /// whatever it says, for now.
    pub largest: Level,
}

/// Whether the guest may write a page's backing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackingWrite {
    /// It may.
    Allowed,
    /// It may not: a write ends as [`Outcome::ReadOnly`](crate::Outcome::ReadOnly).
    Denied,
}

/// There is no host memory behind a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no memory behind the page")]
pub struct NoBacking;

/// Which translations a shoot-down is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Scope {
    /// All of the VM's.
    All,
}
