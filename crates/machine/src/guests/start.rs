//! What all built-in guests do first, and the calls they make; for guests of your own as well.
//!
//! | register | from [`start`] on |
//! |---|---|
//! | `s0` | this hart's id |
//! | `s1` | the address above the reserved pages |
//! | `s2` | the number of harts |
//! | `s3` | the pages of RAM |
//! | `s10` | the seed |

use super::RESERVED_PAGES;
use super::assembler::Assembler;
use crate::sbi::{Parameter, VELLUM};
use crate::vcpu::Reg;

const HSM: i64 = 0x0048_534d;
const PROGRESS: i64 = 1;
const PARAMETER: i64 = 2;

/// Calls the SBI. Arguments are in `a0` to `a2`; `a0`, `a1`, `a6` and `a7` change.
pub fn call(asm: &mut Assembler, extension: i64, function: i64) {
    asm.li(Reg::A7, extension);
    asm.li(Reg::A6, function);
    asm.ecall();
}

/// Tells the machine that `passes` passes are finished.
pub fn progress(asm: &mut Assembler, passes: Reg) {
    asm.mv(Reg::A0, passes);
    call(asm, VELLUM.cast_signed(), PROGRESS);
}

/// `rd` = a parameter.
pub fn parameter(asm: &mut Assembler, rd: Reg, parameter: Parameter) {
    asm.li(Reg::A0, parameter as i64);
    call(asm, VELLUM.cast_signed(), PARAMETER);
    asm.mv(rd, Reg::A1);
}

/// The first instructions of a guest: hart 0 starts the others here too, and each fills the
/// registers of the table above.
pub fn start(asm: &mut Assembler) {
    let entry = asm.here();
    let ready = asm.label();
    asm.mv(Reg::S0, Reg::A0);
    parameter(asm, Reg::S2, Parameter::Harts);
    asm.bnez(Reg::S0, ready);
    asm.li(Reg::T0, 1);
    let next = asm.here();
    asm.bgeu(Reg::T0, Reg::S2, ready);
    asm.mv(Reg::A0, Reg::T0);
    asm.la(Reg::A1, entry);
    asm.li(Reg::A2, 0);
    call(asm, HSM, 0);
    asm.addi(Reg::T0, Reg::T0, 1);
    asm.j(next);
    asm.bind(ready);
    parameter(asm, Reg::S1, Parameter::RamBase);
    asm.li(Reg::T0, RESERVED_PAGES.cast_signed() << 12);
    asm.add(Reg::S1, Reg::S1, Reg::T0);
    parameter(asm, Reg::S3, Parameter::RamSize);
    asm.srli(Reg::S3, Reg::S3, 12);
    parameter(asm, Reg::S10, Parameter::Seed);
}
