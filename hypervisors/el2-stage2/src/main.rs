//! A small hypervisor at Arm's EL2, with stage-2 tables.
//!
//! `cpu.rs` is what the rest of the hypervisor sees of the processor; `syndrome.rs` says how its exits
//! become the library's accesses, `stage2.rs` how tables are walked and flushed, `entry.rs` is the way
//! in and out.
#![no_std]
#![no_main]

extern crate alloc;

mod cpu;
mod entry;
mod guest;
mod proofs;
mod stage2;
mod syndrome;

use checks::Lab;
use cpu::El2;
use vm::{GuestMemory, Processor};

runtime::entry!(main);

fn main() {
    stage2::walk_nowhere();
    runtime::println!("machine el2-stage2: {:?}", El2::features());
    let lab = Lab::<El2>::new(guest_memory());
    let mut all = checks::for_every_processor();
    all.extend(proofs::checks());
    checks::run(&lab, &all, runtime::print_line);
}

#[allow(unsafe_code)]
fn guest_memory() -> GuestMemory {
    let region = runtime::guest_memory();
    // SAFETY: the runtime gives it to nobody else, aligned and for good.
    unsafe { GuestMemory::new(region.first, region.bytes as u64) }
}
