//! Why a machine could not be made.

use crate::config::{Backing, MINIMUM_MEMORY, MOST_MEMORY, MOST_VCPUS};
use std::io;
use vellum_kvm::{KvmError, OpenError, PrepareError, SlotError};
use vellum_memory::LayoutError;
use vm_memory::GuestMemoryError;

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No machine has so many vCPUs, or none.
    #[error("a machine has 1 to {MOST_VCPUS} vCPUs, not {0}")]
    Vcpus(usize),
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// There is no KVM here; says what to do.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel has no such way of tracking.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The log did not take a vCPU.
    #[error(transparent)]
    Log(#[from] KvmError),
    /// KVM refused.
    #[error("{call} failed")]
    Kernel {
        /// Which call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The host gives no thread.
    #[error("no thread for a vCPU")]
    Thread(#[source] io::Error),
    /// The signal that lets vCPUs leave the guest could not be set up.
    #[error("no handler for the signal by which vCPUs are made to leave the guest")]
    Signal(#[source] io::Error),
}

/// Why there is no such memory for a guest.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Too little, or too much.
    #[error("a machine has {MINIMUM_MEMORY} to {MOST_MEMORY} bytes of memory, not {0}")]
    Size(u64),
    /// Huge pages come whole.
    #[error("memory of huge pages is a multiple of 2 MiB, which {0} bytes are not")]
    NotWhole(u64),
    /// The pool has too few huge pages.
    #[error(
        "the host's pool has not the {pages} huge pages of 2 MiB that this takes: as root, `echo {pages} > \
         /proc/sys/vm/nr_hugepages` (more, if others use it), or take another backing"
    )]
    Pool {
        /// How many this machine takes.
        pages: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host refused.
    #[error("the host has no {bytes} bytes of memory ({backing}) for the guest")]
    Refused {
        /// How many bytes.
        bytes: u64,
        /// What was to be behind them.
        backing: Backing,
        /// What it said.
        source: io::Error,
    },
    /// Not as a guest's memory.
    #[error("the guest's memory could not be put together")]
    Regions(#[source] vm_memory::GuestRegionCollectionError),
    /// It could not be written.
    #[error("the guest's tables could not be written")]
    Write(#[from] GuestMemoryError),
    /// Not as a memslot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Not as a layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Says which call it was that failed.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
    move |errno| MachineError::Kernel { call, source: errno.into() }
}
