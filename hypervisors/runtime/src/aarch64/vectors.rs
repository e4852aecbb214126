//! Exceptions: nothing here expects one, so each is reported and ends the run.

use super::registers;
use crate::{Verdict, console, exit};
use core::arch::global_asm;

global_asm!(include_str!("vectors.s"), report = sym report);

/// `number` is the vector's place in the table.
extern "C" fn report(number: usize) -> ! {
    let esr = registers::esr_el2();
    console::print_last(format_args!(
        "failed: {} exception from {} at {:#x}: {}, esr {esr:#x}, address {:#x}, ipa page {:#x}, \
         cpu {}",
        ["synchronous", "interrupt", "fast interrupt", "system error"][number % 4],
        ["EL2 on SP_EL0", "EL2", "a guest", "a 32-bit guest"][number / 4 % 4],
        registers::elr_el2(),
        name(esr >> 26 & 0x3f),
        registers::far_el2(),
        registers::hpfar_el2() << 8,
        registers::mpidr_el1() & 0xff,
    ));
    exit(Verdict::Failed)
}

/// An exception class of ESR (Arm ARM D17.2.37).
fn name(class: u64) -> &'static str {
    match class {
        0x00 => "unknown or undefined",
        0x07 => "floating point is trapped",
        0x0e => "illegal state",
        0x16 => "hypervisor call",
        0x17 => "secure monitor call",
        0x18 => "system register is trapped",
        0x20 => "instruction abort of a guest",
        0x21 => "instruction abort",
        0x22 => "program counter is not aligned",
        0x24 => "data abort of a guest",
        0x25 => "data abort",
        0x26 => "stack pointer is not aligned",
        0x3c => "breakpoint instruction",
        _ => "see the class",
    }
}
