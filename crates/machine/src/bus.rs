//! What a hart needs of memory: the seam between the vCPU and its memory port.

#[cfg(test)]
pub(crate) mod plain;

use crate::emulation::EmulatedStore;
use vellum_mmu::Denial;
use vellum_pte::{Gfn, Gpa};

/// How many bytes an access has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Width {
    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }

    /// The same, for slices.
    #[allow(clippy::cast_possible_truncation, reason = "at most eight")]
    pub(crate) const fn len(self) -> usize {
        self.bytes() as usize
    }
}

/// Why an access did not happen. Nothing was read or written, so it can be restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BusError {
    /// No memslot is there.
    #[error("no memory at {0}")]
    Unmapped(Gpa),
    /// The memslot or its backing is read-only.
    #[error("memory at {0} is read-only")]
    ReadOnly(Gpa),
    /// The page is tracked, or its sub-pages have permissions of their own, and the store is not the
    /// processor's to make: see [`Bus::emulate_store`].
    #[error("a store at {0} is to be emulated")]
    Emulate(Gpa),
    /// The map of the page's sub-pages forbids a byte of the store. It succeeds once the map does not.
    #[error("the map {map} of its page forbids a store at {gpa}", gpa = .0.gpa, map = .0.map)]
    Denied(Denial),
    /// No frame for a page table could be had: the guest may go on later.
    #[error("no memory for page tables while accessing {0}")]
    OutOfMemory(Gpa),
    /// The page tables, or those of sub-page permissions, hold an entry that no correct software writes. Hardware stops the machine.
    #[error("the page tables are misconfigured at {0}")]
    Misconfigured(Gpa),
    /// The page tables map the address by a leaf of another size than a translation that is still
    /// cached: a shoot-down was forgotten between the two (Arm's break-before-make).
    #[error("two sizes of page for {0}")]
    TlbConflict(Gpa),
}

/// Guest memory as one hart sees it. Values are zero-extended, little-endian.
pub trait Bus {
    /// Loads `width` bytes. May cross a page.
    ///
    /// # Errors
    /// [`BusError`]; nothing was read.
    fn load(&mut self, gpa: Gpa, width: Width) -> Result<u64, BusError>;

    /// Stores the low `width` bytes of `value`. May cross a page; then it is not atomic.
    ///
    /// # Errors
    /// [`BusError`]; nothing was written.
    fn store(&mut self, gpa: Gpa, width: Width, value: u64) -> Result<(), BusError>;

    /// A real atomic compare-exchange of an aligned [`Width::Word`] or [`Width::Double`]: stores
    /// `new` if memory holds `expected`, and returns what memory held.
    ///
    /// # Errors
    /// [`BusError`]; nothing was written. A failed comparison needs write permission as well.
    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        expected: u64,
        new: u64,
    ) -> Result<u64, BusError>;

    /// Makes a store that ended as [`BusError::Emulate`], for the instruction `by`. The default is for
    /// memory that answers none so.
    ///
    /// # Errors
    /// [`BusError`]; nothing was written.
    fn emulate_store(
        &mut self,
        by: EmulatedStore,
        gpa: Gpa,
        width: Width,
        value: u64,
    ) -> Result<(), BusError> {
        let _ = by;
        self.store(gpa, width, value)
    }

    /// Makes a compare-exchange of `(expected, new)` that ended as [`BusError::Emulate`], for the
    /// instruction `by`. It is as atomic as any other. The default is as above.
    ///
    /// # Errors
    /// [`BusError`]; nothing was written.
    fn emulate_compare_exchange(
        &mut self,
        by: EmulatedStore,
        gpa: Gpa,
        width: Width,
        (expected, new): (u64, u64),
    ) -> Result<u64, BusError> {
        let _ = by;
        self.compare_exchange(gpa, width, expected, new)
    }

    /// Copies a page of instructions out.
    ///
    /// # Errors
    /// [`BusError`].
    fn fetch(&mut self, gfn: Gfn, into: &mut [u32; 1024]) -> Result<(), BusError>;

    /// Changes whenever translations may have changed: predecoded pages of an older number die.
    fn epoch(&self) -> u64;
}
