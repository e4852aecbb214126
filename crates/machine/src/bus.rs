//! What a hart needs of memory: the seam between the vCPU and its memory port.

#[cfg(test)]
pub(crate) mod plain;

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
    /// No frame for a page table could be had: the guest may go on later.
    #[error("no memory for page tables while accessing {0}")]
    OutOfMemory(Gpa),
    /// The page tables hold an entry that no correct software writes. Hardware stops the machine.
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
    /// [`BusError`]; nothing was written, unless the store crosses a page and its first part was.
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

    /// Copies a page of instructions out.
    ///
    /// # Errors
    /// [`BusError`].
    fn fetch(&mut self, gfn: Gfn, into: &mut [u32; 1024]) -> Result<(), BusError>;

    /// Changes whenever translations may have changed: predecoded pages of an older number die.
    fn epoch(&self) -> u64;
}
