//! Memslots as the monitor has made them.

use crate::calls::Logging;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use vellum_memory::{AddressSpace, GfnRange, PAGE_SIZE, Region, SlotId};

/// The most pages that KVM takes in a memslot, `KVM_MEM_MAX_NR_PAGES`.
const MOST_PAGES: u64 = (1 << 31) - 1;

/// A memslot of the VM, described as it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memslot {
    region: Region,
    host: u64,
    access: SlotAccess,
}

/// What a guest may do in a memslot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotAccess {
    /// Reads and writes.
    ReadWrite,
    /// Reads; a write is an exit (`KVM_MEM_READONLY`).
    ReadOnly,
}

/// Why this is no memslot of KVM's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SlotError {
    /// KVM takes at most 2^31 - 1 pages.
    #[error("a memslot of KVM has at most 2^31 - 1 pages, not {0}")]
    TooManyPages(u64),
    /// Its host address is not a page's.
    #[error("a memslot's memory begins at a page, not at {0:#x}")]
    Unaligned(u64),
}

impl Memslot {
    /// A memslot: its number (the low half of KVM's), address space, place, and where its memory
    /// begins in this process.
    ///
    /// # Errors
    /// KVM would not take it.
    pub fn new(
        slot: SlotId,
        space: AddressSpace,
        range: GfnRange,
        host: *mut u8,
        access: SlotAccess,
    ) -> Result<Self, SlotError> {
        let host = host.addr() as u64;
        if range.pages() > MOST_PAGES {
            return Err(SlotError::TooManyPages(range.pages()));
        }
        if !host.is_multiple_of(PAGE_SIZE) {
            return Err(SlotError::Unaligned(host));
        }
        Ok(Self { region: Region { slot, space, range }, host, access })
    }

    /// It as a region of a layout.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// What `KVM_SET_USER_MEMORY_REGION` is given to make it, unlogged.
    #[must_use]
    pub fn as_kvm(&self) -> kvm_userspace_memory_region {
        self.with(Logging::Off)
    }

    /// KVM's number for it.
    pub(crate) fn number(&self) -> u32 {
        u32::from(self.region.space.0) << 16 | u32::from(self.region.slot.0)
    }

    pub(crate) fn with(&self, logging: Logging) -> kvm_userspace_memory_region {
        let read_only = match self.access {
            SlotAccess::ReadWrite => 0,
            SlotAccess::ReadOnly => KVM_MEM_READONLY,
        };
        let logged = match logging {
            Logging::On => KVM_MEM_LOG_DIRTY_PAGES,
            Logging::Off => 0,
        };
        kvm_userspace_memory_region {
            slot: self.number(),
            flags: read_only | logged,
            guest_phys_addr: self.region.range.first().get() * PAGE_SIZE,
            memory_size: self.region.range.pages() * PAGE_SIZE,
            userspace_addr: self.host,
        }
    }
}

#[cfg(test)]
mod tests;
