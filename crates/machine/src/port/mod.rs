//! The memory port of one vCPU: everything between an access and guest RAM that is hardware on a
//! real machine.
//!
//! ```text
//! access -> TLB hit? -> commit if the epoch is still the entry's      (window, rseq)
//!             | no, or stale; a store: to a permitted sub-page?      (partial)
//!           walk: tables, walk cache, A and D                         (walker)
//!             | violation
//!           the library's fault, then from the start                  (fault)
//!             | the store is not the processor's to make
//!           whoever decodes the instruction makes it                  (emulate)
//! ```
//!
//! Translations are kept until the epoch moves on, and used meanwhile even if the tables say
//! otherwise by now: software that forgets a shoot-down is found out. Where the walker's manual says
//! so, a fault forgets its address; where not, what refused the access refuses it again until
//! [`flush_local`](vellum_mmu::Embedder::flush_local) (`refusals`), and an address with leaves of two
//! sizes in one epoch stops the machine (`sizes`).

mod emulate;
mod fault;
mod host;
mod line;
mod local_flush;
mod partial;
mod refusals;
mod shoot_down;
mod sizes;
mod store;
#[cfg(test)]
mod tests;
mod tlb;
mod window;

pub(crate) use host::HostAddress;
pub(crate) use local_flush::flush_local;
pub(crate) use shoot_down::Hub;
pub use shoot_down::ShootDown;

use crate::bus::{Bus, BusError, Width};
use crate::embedder::BoardEmbedder;
use crate::emulation::EmulatedStore;
use crate::page_log::SharedPageLog;
use crate::walker::{AfterFault, Regime, TwoSizes, Walk, WalkCache, WalkedFormat};
use fault::Part;
use partial::PartialTlb;
use refusals::Refusals;
use sizes::LeafSizes;
use tlb::Tlb;
use vellum_mmu::{Access, DirtyBits, Mmu, Vcpu};
use vellum_pte::{AddressSpace, Gfn, Gpa, PAGE_SIZE, Pfn};
pub use window::Resting;
use window::{Target, Window};

/// One vCPU's memory. Created on any thread at any time, used by one thread at a time.
pub struct Port<'b, F: WalkedFormat> {
    tlb: Tlb,
    partial: PartialTlb,
    cache: WalkCache,
    /// Only where a fault does not make the processor forget.
    refusals: Option<Refusals>,
    /// Only where two sizes are a conflict.
    sizes: Option<LeafSizes>,
    window: Window<'b>,
    space: AddressSpace,
    root: Pfn,
    /// The root of the sub-page permission table, once the processor was given it.
    spp_root: Option<Pfn>,
    regime: Regime,
    mmu: &'b Mmu<F, BoardEmbedder>,
    vcpu: Vcpu<'b, F, BoardEmbedder>,
    /// Only where the processor logs the pages whose D it sets.
    page_log: Option<SharedPageLog>,
}

/// Why a port could not be had or turned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PortError {
    /// The library found no memory for a vCPU.
    #[error("no memory for another vCPU")]
    OutOfMemory,
    /// The board was built without this address space.
    #[error("no address space {}", .0.0)]
    NoSuchSpace(AddressSpace),
}

impl<'b, F: WalkedFormat> Port<'b, F> {
    /// A port into [`AddressSpace::NORMAL`], whose tables are as `regime` says.
    pub(crate) fn new(
        mmu: &'b Mmu<F, BoardEmbedder>,
        regime: Regime,
        dirty_bits: DirtyBits,
    ) -> Result<Self, PortError> {
        let space = AddressSpace::NORMAL;
        let root = mmu.root(space).ok_or(PortError::NoSuchSpace(space))?;
        let vcpu = mmu.vcpu().map_err(|_| PortError::OutOfMemory)?;
        let keeps = F::Walker::AFTER_FAULT == AfterFault::Everything;
        let logs_pages = dirty_bits == DirtyBits::Logged;
        let conflicts = F::Walker::TWO_SIZES == TwoSizes::Conflict;
        Ok(Self {
            tlb: Tlb::new(),
            partial: PartialTlb::new(),
            cache: WalkCache::new(),
            refusals: keeps.then(Refusals::new),
            sizes: conflicts.then(LeafSizes::new),
            window: Window::new(mmu.embedder().hub()),
            space,
            root,
            spp_root: mmu.sub_page_root(space),
            regime,
            mmu,
            vcpu,
            page_log: logs_pages.then(|| mmu.embedder().page_logs().add(space)),
        })
    }

    /// Goes over to another address space, as entering system management mode does.
    ///
    /// # Errors
    /// The board has no such space; the port stays where it is.
    pub fn enter_space(&mut self, space: AddressSpace) -> Result<(), PortError> {
        self.root = self.mmu.root(space).ok_or(PortError::NoSuchSpace(space))?;
        self.space = space;
        self.drain_page_log();
        self.page_log.iter().for_each(|log| log.enter(space));
        self.spp_root = self.mmu.sub_page_root(space);
        self.tlb.clear();
        self.partial.clear();
        self.cache.clear();
        self.refusals.iter_mut().for_each(Refusals::clear);
        self.sizes.iter_mut().for_each(LeafSizes::clear);
        Ok(())
    }

    /// Rests until what is returned is dropped, for who waits with a port at hand: a shoot-down need
    /// not interrupt anybody for it.
    pub fn rest(&mut self) -> Resting<'_> {
        self.window.rest()
    }

    /// Loads by the TLB until it holds; each time it does not, it is filled.
    #[inline]
    fn until_loaded(&mut self, gpa: Gpa, width: Width) -> Result<u64, BusError> {
        loop {
            let at = self.tlb.for_read(gpa);
            if let Some(value) = at.and_then(|at| self.window.load(at, width)) {
                return Ok(value);
            }
            self.fill(Part { gpa, bytes: width.bytes(), access: Access::Read })?;
        }
    }

    #[cold]
    fn load_bytes(&mut self, gpa: Gpa, width: Width) -> Result<u64, BusError> {
        (0..width.bytes()).try_fold(0, |value, index| {
            let byte = self.load(byte_at(gpa, index), Width::Byte)?;
            Ok(value | byte << (8 * index))
        })
    }
}

impl<F: WalkedFormat> Drop for Port<'_, F> {
    /// What it has logged outlives it.
    fn drop(&mut self) {
        self.drain_page_log();
        self.page_log.iter().for_each(|log| self.mmu.embedder().page_logs().remove(log));
    }
}

impl<F: WalkedFormat> Bus for Port<'_, F> {
    #[inline]
    fn load(&mut self, gpa: Gpa, width: Width) -> Result<u64, BusError> {
        if crosses_a_page(gpa, width) {
            return self.load_bytes(gpa, width);
        }
        self.until_loaded(gpa, width)
    }

    #[inline]
    fn store(&mut self, gpa: Gpa, width: Width, value: u64) -> Result<(), BusError> {
        if crosses_a_page(gpa, width) {
            return self.store_across(gpa, width, value);
        }
        let at = self.tlb.for_write(gpa);
        if at.and_then(|at| self.window.store(at, width, value)).is_some() {
            return Ok(());
        }
        self.until_stored(gpa, width, |port, at| port.window.store(at, width, value))
    }

    /// # Panics
    /// `gpa` is not aligned to `width`, or `width` is narrower than a word: a vCPU checks that.
    #[inline]
    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        expected: u64,
        new: u64,
    ) -> Result<u64, BusError> {
        assert!(
            gpa.get().is_multiple_of(width.bytes()) && width.bytes() >= 4,
            "an atomic at {gpa}"
        );
        let exchange = (expected, new);
        let at = self.tlb.for_write(gpa);
        if let Some(held) = at.and_then(|at| self.window.compare_exchange(at, width, exchange)) {
            return Ok(held);
        }
        self.until_stored(gpa, width, |port, at| port.window.compare_exchange(at, width, exchange))
    }

    fn emulate_store(
        &mut self,
        by: EmulatedStore,
        gpa: Gpa,
        width: Width,
        value: u64,
    ) -> Result<(), BusError> {
        Port::emulate_store(self, by, gpa, width, value)
    }

    fn emulate_compare_exchange(
        &mut self,
        by: EmulatedStore,
        gpa: Gpa,
        width: Width,
        exchange: (u64, u64),
    ) -> Result<u64, BusError> {
        Port::emulate_compare_exchange(self, by, gpa, width, exchange)
    }

    fn fetch(&mut self, gfn: Gfn, into: &mut [u32; 1024]) -> Result<(), BusError> {
        loop {
            let at: Target = self.fetch_target(gfn)?;
            if self.window.load_page(at, into).is_some() {
                return Ok(());
            }
        }
    }

    #[inline]
    fn epoch(&self) -> u64 {
        self.window.epoch()
    }
}

#[inline]
fn crosses_a_page(gpa: Gpa, width: Width) -> bool {
    gpa.offset() > PAGE_SIZE - width.bytes()
}

/// Addresses wrap, as the guest's do.
fn byte_at(gpa: Gpa, index: u64) -> Gpa {
    Gpa::new(gpa.get().wrapping_add(index))
}
