//! The guest of both x86 hypervisors, in 64-bit mode: its program, its page tables, its registers,
//! and the one instruction of it that is emulated.
//!
//! Its addresses are its physical ones: its page tables map the first 4 GiB one to one.
#![no_std]

mod decode;
mod layout;
mod program;
mod registers;

pub use decode::decode;
pub use layout::{DIRECTORIES, ENTRY, ROOT, lay_out};
pub use program::Hypercall;
pub use registers::Registers;
