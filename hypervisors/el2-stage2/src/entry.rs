//! The way into a guest and out of it.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::mem::offset_of;

global_asm!(include_str!("switch.s"));

/// What is kept of a guest while it is out.
#[repr(C)]
pub(crate) struct Registers {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    /// Its next instruction.
    pub(crate) pc: u64,
    /// Its mode.
    pub(crate) pstate: u64,
    /// Which of the four vectors it came out by.
    vector: u64,
}

const _: () = assert!(offset_of!(Registers, pc) == 248 && offset_of!(Registers, vector) == 264);

/// EL1 on its own stack pointer, with all interrupts masked.
const EL1H_MASKED: u64 = 0x3c5;

/// The kind of exception that a guest came out by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Vector {
    /// An instruction of the guest's: ESR says why.
    Synchronous,
    /// An interrupt or a system error, by the vector's place.
    Other(u64),
}

unsafe extern "C" {
    fn enter_guest(registers: &mut Registers);
}

impl Registers {
    /// A guest that stands at its address 0.
    pub(crate) const fn at_start() -> Self {
        Self { x: [0; 31], pc: 0, pstate: EL1H_MASKED, vector: 0 }
    }

    /// Runs the guest until its next exception to EL2.
    ///
    /// # Safety
    /// This CPU's stage 2 is on, and leads to the guest's memory and nowhere else.
    pub(crate) unsafe fn enter(&mut self) -> Vector {
        // SAFETY: by the caller's promise; all that is ours is put back.
        unsafe { enter_guest(self) };
        match self.vector {
            0 => Vector::Synchronous,
            other => Vector::Other(other),
        }
    }
}
