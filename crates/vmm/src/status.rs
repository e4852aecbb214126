//! What a machine does, and why it stands.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use vellum_kvm::KvmError;

/// What a machine does.
#[derive(Clone, Debug)]
pub enum Status {
    /// Nothing, until it is resumed.
    Paused,
    /// It runs.
    Running,
    /// The guest ended: it will not run any more.
    ShutDown(End),
    /// A vCPU could not go on: the machine will not run any more.
    Failed(Arc<Failure>),
}

/// How a guest ended, by its own account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It has done what it was to do.
    Finished,
    /// It has found something wrong.
    Failed,
}

/// Which vCPU could not go on, where, and why. Its text ends with that of `why`; what caused that is its
/// source.
#[derive(Debug)]
pub struct Failure {
    /// Its number.
    pub vcpu: usize,
    /// Its instruction pointer, if the kernel still says it.
    pub at: Option<u64>,
    /// What happened.
    pub why: Why,
}

/// Why a vCPU could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// A fault that nobody handles: the guest has no handlers at all.
    #[error("it shut down, as a processor does at a fault that it cannot deliver")]
    ShutDown,
    /// The processor refused its state.
    #[error("the processor did not enter the guest, for reason {reason:#x}")]
    FailEntry {
        /// The processor's reason.
        reason: u64,
    },
    /// KVM met something that it cannot emulate.
    #[error(
        "KVM could not go on (KVM_EXIT_INTERNAL_ERROR), as at an instruction that it cannot emulate"
    )]
    InternalError,
    /// An access where there is no memory.
    #[error("it read or wrote at {address:#x}, where there is no memory")]
    NoMemory {
        /// The guest-physical address.
        address: u64,
    },
    /// The host had no page for the guest.
    #[error("the host has no memory behind {address:#x}")]
    HostMemory {
        /// The guest-physical address.
        address: u64,
    },
    /// An `out` that is no message: to a port without a meaning, of another width than the port's, or by
    /// an instruction that writes more than once.
    #[error("it wrote to port {port:#x}, size {size}, count {count}, which is no message")]
    Out {
        /// The port.
        port: u16,
        /// Bytes of each time.
        size: u8,
        /// How many times.
        count: u32,
    },
    /// An `in`: no port has anything to read.
    #[error("it read from port {port:#x}, size {size}, count {count}, where there is nothing")]
    In {
        /// The port.
        port: u16,
        /// Bytes of each time.
        size: u8,
        /// How many times.
        count: u32,
    },
    /// An instruction that writes to a port again and again, of which a message is one time.
    #[error("it wrote to a port by a repeated instruction, which is no message")]
    Repeated,
    /// An exit for which a machine without devices has no use.
    #[error("it left the guest for reason {0} of KVM's, with which this monitor can do nothing")]
    Exit(u32),
    /// The kernel would not run it.
    #[error("KVM_RUN failed")]
    Kernel(#[source] std::io::Error),
    /// Its dirty ring is full and could not be emptied.
    #[error("its dirty ring is full and could not be emptied")]
    Ring(#[source] KvmError),
    /// A restore ended half-way: registers of two states are in its vCPUs.
    #[error("a restore was refused half-way")]
    HalfRestored,
    /// Its thread panicked, which is a mistake in this program.
    #[error("its thread panicked")]
    Panicked,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}", self.vcpu)?;
        if let Some(at) = self.at {
            write!(f, " at {at:#x}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.why.source()
    }
}

/// Why a machine runs no more.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    ShutDown(End),
    Failed(Arc<Failure>),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(Arc::new(failure))
    }
}

impl From<Ended> for Status {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::ShutDown(end) => Self::ShutDown(end),
            Ended::Failed(failure) => Self::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests;
