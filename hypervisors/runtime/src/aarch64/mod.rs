//! Arm: QEMU's `virt` machine at EL2, with its memory mapped one to one.
//!
//! `-machine virt,virtualization=on -semihosting-config enable=on,target=native`.

mod compiler;
mod cpus;
mod devices;
pub mod registers;
mod vectors;

pub use cpus::beside;
pub(crate) use devices::{exit, put};

use core::arch::global_asm;

global_asm!(
    include_str!("boot.s"),
    enter = sym enter,
    refuse = sym refuse,
    enter_another = sym cpus::enter_another,
);

extern "C" fn enter() -> ! {
    crate::start()
}

extern "C" fn refuse() -> ! {
    panic!("not started at EL2: the machine needs virtualization=on");
}
