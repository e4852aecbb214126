//! x86-64: from a multiboot loader to 64-bit mode, with 4 GiB mapped one to one.
//!
//! Selectors: code 0x08, data 0x10, a task-state segment 0x18 in TR. Interrupts stay off. A second CPU
//! runs when there is something [`beside`] the first, with 0x30 in TR.

mod cpus;
mod port;
mod registers;
mod vectors;

pub use cpus::{beside, cpu, cpus, kick_others};
pub(crate) use port::{exit, put};
pub use registers::{cr0, cr2, cr3, cr4, read_msr, set_cr4, write_msr};

use core::arch::global_asm;

global_asm!(
    include_str!("boot.s"),
    enter = sym enter,
    enter_another = sym cpus::enter_another,
);
global_asm!(include_str!("memory.s"));

extern "C" fn enter() -> ! {
    port::prepare_serial();
    vectors::load();
    crate::start()
}
