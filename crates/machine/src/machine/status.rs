//! What a machine does, and why it stands.

use crate::sbi::ShutdownReason;
use crate::vcpu::Exit;
use std::fmt;
use vellum_pte::{Gpa, SubPageMap};

/// What a machine does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Nothing, until it is resumed.
    Paused,
    /// It runs.
    Running,
    /// A hart stands at a store that a map of sub-pages forbids, and the others stand still too. When
    /// it is resumed, the store is tried again.
    Denied(DeniedStore),
    /// The guest shut it down: it will not run any more.
    ShutDown(ShutdownReason),
    /// A hart could not go on: the machine will not run any more.
    Failed(HartFailure),
    /// A hart's thread panicked, which is a mistake in this program.
    Panicked {
        /// Its number.
        hart: u64,
    },
}

/// A store that did not happen, and the instruction that would have made it. The hart is at the
/// instruction: who wants it to go on opens the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeniedStore {
    /// The hart's number.
    pub hart: u64,
    /// The instruction.
    pub pc: Gpa,
    /// How long the instruction is, in bytes.
    pub length: u8,
    /// The first byte that may not be written.
    pub gpa: Gpa,
    /// The map of its page.
    pub map: SubPageMap,
}

impl fmt::Display for DeniedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hart, pc, gpa, map, .. } = self;
        write!(f, "hart {hart} at {pc}: the map {map} of its page forbids a store at {gpa}")
    }
}

/// Which hart could not go on, where, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HartFailure {
    /// Its number.
    pub hart: u64,
    /// The instruction.
    pub pc: Gpa,
    /// What happened there.
    pub exit: Exit,
}

impl fmt::Display for HartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hart {} at {}: ", self.hart, self.pc)?;
        match self.exit {
            Exit::Illegal { word, .. } => write!(f, "{word:#010x} is no instruction"),
            Exit::Breakpoint => write!(f, "a breakpoint"),
            Exit::Misaligned { address } => write!(f, "{address} is not aligned"),
            Exit::Fault(error) => write!(f, "{error}"),
            Exit::Budget | Exit::Ecall | Exit::Wfi => write!(f, "{:?}", self.exit),
        }
    }
}

impl std::error::Error for HartFailure {}

/// Why a machine runs no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    ShutDown(ShutdownReason),
    Failed(HartFailure),
    Panicked { hart: u64 },
}

impl From<Ended> for Status {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::ShutDown(reason) => Self::ShutDown(reason),
            Ended::Failed(failure) => Self::Failed(failure),
            Ended::Panicked { hart } => Self::Panicked { hart },
        }
    }
}
