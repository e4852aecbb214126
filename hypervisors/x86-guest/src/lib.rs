//! The guest of both x86 hypervisors, in 64-bit mode: its program, its page tables, its registers,
//! the one instruction of it that is emulated, and what is to be shown of its walks.
//!
//! Its addresses are its physical ones: its page tables map the first 4 GiB one to one.
#![no_std]

extern crate alloc;

mod decode;
mod layout;
mod program;
mod registers;
pub mod walks;

pub use decode::decode;
pub use layout::{ENTRY, ROOT, lay_out, lay_out_tables};
pub use program::Hypercall;
pub use registers::Registers;
