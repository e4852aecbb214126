//! RV64IMA harts: a small predecoded interpreter.
//!
//! | file | what |
//! |---|---|
//! | [`state`] | what moves with a hart, and its bytes |
//! | `op` | the compact form of an instruction |
//! | `decode` | words to that form (RISC-V unprivileged specification, 20191213) |
//! | `code` | a page of instructions, decoded once, and the cache of such pages |
//! | `execute` | the loop, and what guests do most |
//! | `emulate` | instructions whose store is not the processor's to make |
//! | `reg` | the registers, by the names of the calling convention |
//! | `rare` | division, word forms, counters, the system instructions |
//! | `atomic` | LR, SC and AMO as compare-exchanges of the host |
//!
//! A hart has no privilege levels, no interrupts and no translation of its own: an address is a
//! guest physical address. Its extensions are I, M, A, Zifencei, and of Zicsr the reads of
//! `cycle`, `time` and `instret`.

mod atomic;
mod code;
mod decode;
mod emulate;
mod execute;
mod op;
mod rare;
mod reg;
pub mod state;

#[cfg(test)]
mod tests;

use vellum_pte::Gpa;

use crate::bus::{Bus, BusError};
use code::Code;
use execute::{Core, Left};
pub use reg::Reg;
pub use state::{HartState, StateError};

/// How long each instruction is, in bytes.
pub const INSTRUCTION_BYTES: u8 = 4;

/// Why a hart came back. But for [`Exit::Budget`] and [`Exit::Wfi`] the program counter is at the
/// instruction named, and nothing of it has happened: it can be restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The budget is used up; the next `run` goes on.
    Budget,
    /// `ecall`. [`crate::sbi::call`] performs it and moves on to the next instruction.
    Ecall,
    /// A word that is no instruction of this hart.
    Illegal {
        /// Where it is.
        pc: Gpa,
        /// The word.
        word: u32,
    },
    /// `ebreak`.
    Breakpoint,
    /// A jump to an address that is no multiple of four, or an atomic access that is not aligned.
    Misaligned {
        /// The address.
        address: Gpa,
    },
    /// Memory refused an access, or the fetch of the instruction.
    Fault(BusError),
    /// `wfi`, which is done: the program counter is behind it. There are no interrupts, so a
    /// hart may go on at once or after a rest.
    Wfi,
}

impl From<BusError> for Exit {
    fn from(error: BusError) -> Self {
        Self::Fault(error)
    }
}

/// A hart: its state, and the instructions it has decoded.
#[derive(Debug)]
pub struct Hart {
    core: Core,
    code: Code,
}

impl Hart {
    /// A hart about to start at `entry`, with its id in `a0` and `opaque` in `a1`, as the SBI's
    /// hart state management says.
    #[must_use]
    pub fn new(id: u64, entry: Gpa, opaque: u64) -> Self {
        let mut hart = Self::restore(&HartState::at(id, entry));
        hart.set_x(Reg::A0, id);
        hart.set_x(Reg::A1, opaque);
        hart
    }

    /// A hart that goes on where `state` was saved. It holds no reservation: an SC after the move
    /// fails, which the architecture allows, and the guest tries again.
    #[must_use]
    pub fn restore(state: &HartState) -> Self {
        Self { core: Core::new(state), code: Code::new() }
    }

    /// What moves with the hart.
    #[must_use]
    pub fn save(&self) -> HartState {
        self.core.save()
    }

    /// Runs until something happens, or until about `budget` more instructions have retired; the
    /// budget is looked at on taken branches and at page ends, so up to 1024 more may.
    pub fn run<B: Bus>(&mut self, bus: &mut B, budget: u64) -> Exit {
        let end = self.core.instret.saturating_add(budget);
        while self.core.instret < end {
            match self.run_page(bus, end) {
                Ok(Left::Page) => {}
                Ok(Left::Code) => self.code.forget(),
                Err(exit) => return exit,
            }
        }
        Exit::Budget
    }

    fn run_page<B: Bus>(&mut self, bus: &mut B, end: u64) -> Result<Left, Exit> {
        let page = self.code.page(Gpa::new(self.core.pc).gfn(), bus)?;
        self.core.run(page, bus, end)
    }

    /// Its number among the harts.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.core.id
    }

    /// Where it is.
    #[must_use]
    pub fn pc(&self) -> Gpa {
        Gpa::new(self.core.pc)
    }

    /// Moves behind the instruction at [`Self::pc`], which somebody else has performed.
    pub fn skip(&mut self) {
        self.core.pc = self.core.pc.wrapping_add(4);
        self.core.instret += 1;
    }

    /// How many instructions have retired.
    #[must_use]
    pub fn instret(&self) -> u64 {
        self.core.instret
    }

    /// What the `time` register reads from now on, in nanoseconds. Time stands still within one
    /// [`Self::run`].
    pub fn set_time(&mut self, ns: u64) {
        self.core.time = ns;
    }

    /// The value of a register.
    #[must_use]
    pub fn x(&self, reg: Reg) -> u64 {
        self.core.x[usize::from(reg.number())]
    }

    /// Writes a register.
    pub fn set_x(&mut self, reg: Reg, value: u64) {
        if reg != Reg::ZERO {
            self.core.x[usize::from(reg.number())] = value;
        }
    }
}
