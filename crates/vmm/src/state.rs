//! What of a machine moves, beside its memory.

mod encoding;
mod features;
mod msrs;
mod vcpu;
mod xsave;

#[cfg(test)]
pub(crate) use encoding::{content, seal};
pub use features::{CpuidWord, Register};
pub(crate) use msrs::Msrs;
pub(crate) use vcpu::{Refusal, SavedVcpu};

use crate::status::{End, Failure};
use std::fmt;
use std::io;
use std::sync::Arc;

/// All vCPUs, each between two instructions.
#[derive(Clone, PartialEq, Debug)]
pub struct MachineState {
    pub(crate) end: Option<End>,
    pub(crate) vcpus: Vec<SavedVcpu>,
}

/// A part of a vCPU's state, as KVM hands it out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    /// What CPUID says (`KVM_GET_CPUID2`).
    Cpuid,
    /// Whether it runs or waits (`KVM_GET_MP_STATE`).
    MpState,
    /// General registers, instruction pointer, flags (`KVM_GET_REGS`).
    Registers,
    /// Segments, control registers, EFER (`KVM_GET_SREGS`).
    SystemRegisters,
    /// XCR0 (`KVM_GET_XCRS`).
    ExtendedControl,
    /// Floating point, SSE and what came after (`KVM_GET_XSAVE2`).
    Xsave,
    /// Debug registers (`KVM_GET_DEBUGREGS`).
    DebugRegisters,
    /// Model-specific registers, the time-stamp counter among them (`KVM_GET_MSRS`).
    Msrs,
    /// Exceptions and interrupts under way (`KVM_GET_VCPU_EVENTS`).
    Events,
}

impl Part {
    /// All of them, in the order in which they are restored: what CPUID says comes before what depends
    /// on it, and what is under way comes last.
    pub const ALL: [Self; 9] = [
        Self::Cpuid,
        Self::MpState,
        Self::Registers,
        Self::SystemRegisters,
        Self::ExtendedControl,
        Self::Xsave,
        Self::DebugRegisters,
        Self::Msrs,
        Self::Events,
    ];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpuid => "CPUID",
            Self::MpState => "the MP state",
            Self::Registers => "the general registers",
            Self::SystemRegisters => "the system registers",
            Self::ExtendedControl => "XCR0",
            Self::Xsave => "the XSAVE area",
            Self::DebugRegisters => "the debug registers",
            Self::Msrs => "the model-specific registers",
            Self::Events => "the events under way",
        })
    }
}

/// Why a machine's state could not be saved. The machine is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It is not paused.
    #[error("the machine is not paused")]
    NotPaused,
    /// It failed: there is nothing to go on with.
    #[error("the machine failed")]
    Failed(#[source] Arc<Failure>),
    /// KVM does not say.
    #[error("KVM does not give {part} of vCPU {vcpu}")]
    Refused {
        /// Its number.
        vcpu: usize,
        /// What it would not give.
        part: Part,
        /// What it said.
        source: io::Error,
    },
}

/// Why a machine's state could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The thread of a vCPU has panicked: the machine cannot run any more, whatever its state.
    #[error("a vCPU's thread has panicked, and the machine cannot run any more")]
    Panicked,
    /// It is not paused.
    #[error("the machine is not paused")]
    NotPaused,
    /// The state is of a machine with another number of vCPUs.
    #[error("a state of {state} vCPUs for a machine of {machine}")]
    Vcpus {
        /// In the state.
        state: usize,
        /// In the machine.
        machine: usize,
    },
    /// The guest was given features that this host's KVM does not support.
    #[error("this host lacks features that vCPU {vcpu} was given: bits {bits:#x} of {word}")]
    Features {
        /// Its number.
        vcpu: usize,
        /// Where CPUID says that it has them: the first such place.
        word: CpuidWord,
        /// Which of its bits are lacking.
        bits: u32,
    },
    /// KVM does not take a part.
    #[error("KVM does not take {part} of vCPU {vcpu}")]
    Refused {
        /// Its number.
        vcpu: usize,
        /// What it would not take.
        part: Part,
        /// What it said.
        source: io::Error,
    },
    /// KVM does not take a model-specific register.
    #[error(
        "KVM does not take {value:#x} in the model-specific register {index:#x} of vCPU {vcpu}"
    )]
    Msr {
        /// The vCPU's number.
        vcpu: usize,
        /// The register's.
        index: u32,
        /// What it was to hold.
        value: u64,
    },
    /// The state has units that this host has no room for.
    #[error("the XSAVE area of vCPU {vcpu} has {found} bytes, and this host's {room}")]
    Xsave {
        /// Its number.
        vcpu: usize,
        /// In the state.
        found: usize,
        /// On this host.
        room: usize,
    },
}

/// Why bytes are no [`MachineState`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// They are not as they were written.
    #[error("the machine state is damaged: its seal does not fit")]
    Damaged,
    /// Another version of this program wrote them.
    #[error("a machine state of version {0}, not {version}", version = encoding::VERSION)]
    Version(u32),
    /// No machine has so many vCPUs, or none.
    #[error("a machine of {0} vCPUs")]
    Vcpus(u32),
    /// A field has a value without meaning.
    #[error("a machine state with a field that says {0}")]
    Field(u32),
    /// They end before the state does.
    #[error("the machine state ends in the middle")]
    TooShort,
    /// They go on after the state.
    #[error("the machine state is followed by {0} bytes more")]
    TooLong(usize),
    /// A part has another size than it can have.
    #[error("{part} of {found} bytes")]
    Size {
        /// Which.
        part: Part,
        /// Its bytes.
        found: usize,
    },
}

impl MachineState {
    /// As bytes that begin with a version and end with a seal.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encoding::write(self)
    }

    /// The state that [`to_bytes`](Self::to_bytes) gave these bytes for.
    ///
    /// # Errors
    /// [`StateError`]. Any bytes may be passed. That they are a state does not mean that KVM takes it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        encoding::read(bytes)
    }

    /// How many vCPUs it is of.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }
}
