//! What can go wrong.

use core::fmt;
use std::io;
use vellum_memory::{Misuse, SlotId};

/// A call of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Changes a memslot's flags.
    SetUserMemoryRegion,
    /// Reads a slot's bitmap.
    GetDirtyLog,
    /// Empties a part of it.
    ClearDirtyLog,
    /// Takes back what was harvested from rings.
    ResetDirtyRings,
    /// Maps a vCPU's ring.
    MapRing,
    /// Keeps a handle of the VM.
    Duplicate,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SetUserMemoryRegion => "KVM_SET_USER_MEMORY_REGION",
            Self::GetDirtyLog => "KVM_GET_DIRTY_LOG",
            Self::ClearDirtyLog => "KVM_CLEAR_DIRTY_LOG",
            Self::ResetDirtyRings => "KVM_RESET_DIRTY_RINGS",
            Self::MapRing => "mmap of a dirty ring",
            Self::Duplicate => "dup of the VM's descriptor",
        })
    }
}

/// Why a log of the kernel's failed. Whatever it had taken is owed, and of a memslot whose call failed
/// all pages: the kernel may have forgotten any of them.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// A call about one memslot failed.
    #[error("{call} failed for memslot {}", slot.0)]
    Slot {
        /// Which call.
        call: Call,
        /// Of which memslot.
        slot: SlotId,
        /// What the kernel said.
        source: io::Error,
    },
    /// A call about the whole VM or a vCPU failed.
    #[error("{call} failed")]
    Vm {
        /// Which call.
        call: Call,
        /// What the kernel said.
        source: io::Error,
    },
    /// A ring does not say what the kernel does.
    #[error("the dirty rings cannot be believed, so all pages are dirty again: {0}")]
    Ring(#[from] RingFault),
    /// The caller was wrong.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

/// How a ring, whose memory this process and whoever has the vCPU's descriptor can write, was found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RingFault {
    /// An entry names no page of any memslot that the log covers.
    #[error("an entry names page {offset:#x} of memslot {slot:#x}, which is in no region")]
    Astray {
        /// KVM's number of the slot, as it stands there.
        slot: u32,
        /// The page, as it stands there.
        offset: u64,
    },
    /// The kernel was interrupted while it took entries back, and has left some of their pages
    /// unprotected.
    #[error("a reset was interrupted, which leaves pages unprotected")]
    Interrupted,
    /// The kernel took back another number of entries than were harvested.
    #[error("{harvested} entries were harvested, and the kernel took back {taken_back}")]
    Miscounted {
        /// Entries that we have marked.
        harvested: u64,
        /// Entries that it says it took.
        taken_back: u64,
    },
}
