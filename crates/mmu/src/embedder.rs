//! The contract: what a hypervisor brings.

use crate::frame::Frame;
use crate::slots::MemoryId;
use core::num::NonZeroU64;
use vellum_pte::{AddressSpace, Gfn, Gpa, Level, Pfn, SlotId};

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
    ///
    /// Its zeros are visible to every walker before this returns: on x86 they are, on Arm after a DSB
    /// ISHST (Arm ARM D8.16).
    fn allocate_frame(&self) -> Option<Frame>;

    /// Zeroed frames for `tables` root tables side by side, a power of two and more than one only
    /// where a format concatenates roots ([`TableFormat::root`](vellum_pte::TableFormat::root)). What
    /// [`Frame::from_raw`] asks for, the first frame answers for all: they follow each other in
    /// host and in library addresses, aligned to their size together.
    ///
    /// The default has single roots only.
    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        if tables == 1 { self.allocate_frame() } else { None }
    }

    /// Takes back what [`allocate_roots`](Self::allocate_roots) gave: the first frame, for all.
    fn release_roots(&self, first: Frame, tables: u32) {
        debug_assert!(tables == 1, "whoever gives several takes several back");
        self.release_frame(first);
    }

    /// Takes a frame back. No TLB, no walker of the library and no entry refers to it any more:
    /// it never was linked, or [`shoot_down`](Self::shoot_down) has returned since it was unlinked.
    fn release_frame(&self, frame: Frame);

    /// Makes every CPU that may cache translations of this VM, running or not, forget those of
    /// `scope`. On return no access can use one.
    ///
    /// - EPT: INVEPT on each such CPU, or before its next VM entry (Intel SDM vol. 3C, 29.4.3). A CPU
    ///   that is in the guest has to leave it first: it is sent an interrupt and waited for.
    /// - NPT: a new ASID or TLB_CONTROL at each VMRUN that follows (AMD APM vol. 2, 15.16). Here, too, a
    ///   CPU that is in the guest has to leave it first.
    /// - Arm: DSB ISHST, so that walkers see the tables; TLBI VMALLS12E1IS with this VM's VMID in
    ///   VTTBR_EL2 (written before, with an ISB after it); DSB ISH; ISB (Arm ARM D8.16). Where VTCR_EL2 says that walkers do not look into
    ///   caches (IRGN0, ORGN0 non-cacheable), table frames are cleaned to the point of coherency
    ///   first.
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

    /// Called on the CPU of a fault, before it enters the guest again, when the entries now allow
    /// the access at `gpa`: makes them visible to this CPU's walker, and forgets a refusal that its
    /// TLB may hold for the address.
    ///
    /// - x86: nothing. Walkers see stores in order, and a refusal is never kept (Intel SDM vol. 3C,
    ///   29.4.3.1; AMD APM vol. 2, 5.5).
    /// - Arm: DSB ISHST; TLBI IPAS2E1 of the address; DSB; TLBI VMALLE1; DSB; ISB (Arm ARM
    ///   D8.16.6): a TLB may hold a leaf that refused the access.
    fn flush_local(&self, gpa: Gpa) {
        let _ = gpa;
    }

    /// The host memory behind a page of a memslot, or `None` where there is none (yet): the fault
    /// ends as [`Outcome::NoBacking`](crate::Outcome::NoBacking). The answer must stay true while
    /// the slot exists, or until [`Mmu::invalidate`](crate::Mmu::invalidate) says otherwise.
    fn resolve(&self, page: GuestPage) -> Option<Backing>;

    /// Copies `bytes` into guest memory, `offset` bytes into `page`, which they do not leave. For
    /// [`GuestWriter`](crate::GuestWriter).
    ///
    /// # Errors
    /// [`NoBacking`]; nothing was written.
    fn write(&self, page: GuestPage, offset: u64, bytes: &[u8]) -> Result<(), NoBacking>;

    /// Sees to it that what hardware has logged for any vCPU, running or not, is in the library's log
    /// when this returns: either `log` is told of each entry (a guest-physical address, as hardware
    /// wrote it), or the vCPU hands it over itself ([`Vcpu::log_stores`](crate::Vcpu::log_stores)), as it
    /// may on each of its exits. Called before a log is read, begins, moves with its slot or forgets
    /// pages, where hardware keeps one of its own ([`DirtyBits::Logged`](crate::DirtyBits::Logged)),
    /// with no lock of the library held.
    fn drain_logs(&self, log: &mut dyn FnMut(AddressSpace, u64)) {
        let _ = log;
    }

    /// Whether whoever calls may listen to this VM's writes: on an operating system, whether it runs
    /// for the process that owns the VM.
    fn may_listen(&self) -> bool {
        true
    }

    /// A number that tells the calling thread, or CPU where a call stays on its own, from all others
    /// that run. With it, what would wait for itself is refused: registering a listener from inside
    /// of a slot change, that is from [`barrier_all`](Self::barrier_all). Without it, that hangs.
    fn caller(&self) -> Option<CallerId> {
        None
    }
}

/// One thread or CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallerId(pub NonZeroU64);

/// A page of a memslot, named in every way that an embedder may want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestPage {
    /// Its slot.
    pub slot: SlotId,
    /// The slot's memory, as the embedder named it.
    pub memory: MemoryId,
    /// Its place in the slot, in pages.
    pub index: u64,
    /// The address space that the slot is in.
    pub space: AddressSpace,
    /// Where the guest sees it. A slot may move; the page's memory goes with it.
    pub gfn: Gfn,
}

/// The host memory behind a guest page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backing {
    /// The host frame.
    pub frame: Pfn,
    /// Whether the guest may write it.
    pub write: BackingWrite,
    /// The largest leaf that the host memory allows here: a transparent or explicit huge page, or
    /// [`Level::L1`]. The library also looks at the alignment of guest and host frame and at the
    /// slot's ends.
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
