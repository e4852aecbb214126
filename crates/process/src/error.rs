//! What can go wrong.

use crate::capabilities::Missing;
use crate::mapping::Aliased;
use core::fmt;
use std::io;
use vellum_memory::{LayoutError, Misuse, SlotId};

/// A call of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Puts memory under a userfaultfd.
    Register,
    /// Takes it out again.
    Unregister,
    /// Protects pages, or takes their protection away.
    WriteProtect,
    /// Lets who waits for a page try again.
    Wake,
    /// Finds the pages that were written, and protects them again.
    PagemapScan,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register => "UFFDIO_REGISTER",
            Self::Unregister => "UFFDIO_UNREGISTER",
            Self::WriteProtect => "UFFDIO_WRITEPROTECT",
            Self::Wake => "UFFDIO_WAKE",
            Self::PagemapScan => "PAGEMAP_SCAN",
        })
    }
}

/// Why a log of this process's memory failed. Whatever it had taken is owed, and of a region whose
/// scan failed all pages: the kernel may have protected any of them without saying so.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// This process is not given what a log needs.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The mappings are no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Nor are they different memory.
    #[error(transparent)]
    Aliased(#[from] Aliased),
    /// A call about one region failed.
    #[error("{call} failed for region {}", slot.0)]
    Refused {
        /// Which call.
        call: Call,
        /// Of which region.
        slot: SlotId,
        /// What the kernel said.
        source: io::Error,
    },
    /// A scan ended at an address and does not go on from there. Some kernels do so at pages of
    /// hugetlbfs that are of another size than 2 MiB.
    #[error(
        "the scan of region {} does not go on from {at:#x}: of hugetlbfs, this kernel may scan pages of \
         2 MiB and no others",
        slot.0
    )]
    Stuck {
        /// Of which region.
        slot: SlotId,
        /// Where.
        at: u64,
    },
    /// The log was made by another process, and is about that one's memory.
    #[error("the log is of the memory of the process that made it, not of one forked from it")]
    Forked,
    /// The caller was wrong.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}
