//! The guest's program.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::slice::from_raw_parts;
use vellum_pte::Gpa;
use vm::{GuestMemory, Op, Work};

global_asm!(include_str!("guest.s"));

unsafe extern "C" {
    static guest_program: u8;
    static guest_program_end: u8;
}

/// Where it does its work.
pub(crate) const WORK: u64 = 0;
/// Where it switches its MMU on.
pub(crate) const OWN_TABLES: u64 = 0x100;
/// Where it stores in every width.
pub(crate) const WIDTHS: u64 = 0x180;
/// Its vectors.
pub(crate) const VECTORS: u64 = 0x800;
/// The number that it calls with when it took an exception of its own.
pub(crate) const BROKEN: u64 = 1;

/// Where the result of a load is.
pub(crate) const LOADED: usize = 4;

/// The first registers for `work`.
pub(crate) fn registers(work: Work) -> [u64; 5] {
    let op = match work.op {
        Op::Store => 0,
        Op::Load => 1,
    };
    [op, work.first.get(), work.stride, work.count, work.value]
}

/// Copies the program to the guest's address 0.
pub(crate) fn lay_out(memory: GuestMemory) {
    let first = &raw const guest_program;
    let bytes = (&raw const guest_program_end).addr() - first.addr();
    // SAFETY: the program is between the two.
    let program = unsafe { from_raw_parts(first, bytes) };
    memory.write(Gpa::new(0), program).expect("the guest's memory is larger");
    let start = memory.frame(Gpa::new(0)).expect("as above").address();
    (start..start + bytes as u64).step_by(16).for_each(clean);
    // SAFETY: instructions are fetched anew, no more.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack)) };
}

/// Writes a line of the data cache back: the guest fetches with its caches off.
fn clean(address: u64) {
    // SAFETY: memory says the same after it.
    unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack)) };
}
