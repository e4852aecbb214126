//! What the prebuilt `core` and its built-in functions name on a target with an operating system.
//!
//! Atomics are calls of functions that choose between one instruction and a loop of exclusives. A
//! constructor asks the operating system which; nobody calls constructors here, and the loop serves
//! every processor.

use core::arch::global_asm;

global_asm!(include_str!("memory.s"));

#[unsafe(no_mangle)]
extern "C" fn getauxval(_: u64) -> u64 {
    0
}

#[unsafe(no_mangle)]
static __stack_chk_guard: usize = 0;

#[unsafe(no_mangle)]
extern "C" fn __stack_chk_fail() -> ! {
    panic!("a stack was overwritten");
}
