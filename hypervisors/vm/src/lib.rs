//! The part of a small hypervisor that does not depend on the processor: what it brings to the
//! library ([`Host`]), and how it drives a vCPU ([`Guest`]).
//!
//! A hypervisor author starts here: `host.rs` is all that the library asks for, `guest.rs` is the
//! exit handler. What depends on the processor is behind [`Processor`].
#![no_std]

extern crate alloc;

mod frames;
mod guest;
mod host;
mod memory;
mod processor;

pub use frames::{allocate_frames, release_frames};
pub use guest::{Exits, Guest, Ran};
pub use host::{Host, ShootDowns};
pub use memory::GuestMemory;
pub use processor::{Exit, Features, Op, Processor, Store, Tables, Work};

/// The address space of ordinary guest memory.
pub const SPACE: vellum_pte::AddressSpace = vellum_pte::AddressSpace::NORMAL;

/// The first bytes of a guest's memory, which hold its program.
pub const PROGRAM_BYTES: u64 = 1 << 16;
