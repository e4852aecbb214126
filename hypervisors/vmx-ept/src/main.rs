//! A small hypervisor on Intel's VMX with extended page tables.
//!
//! `processor.rs` is what the rest of the hypervisor sees of it; `exit.rs` says how the processor's
//! exits become the library's accesses and events, `controls.rs` which of its tables the processor walks.
#![no_std]
#![no_main]

extern crate alloc;

mod capabilities;
mod checks;
mod controls;
mod entry;
mod exit;
mod fields;
mod instructions;
mod operation;
mod page;
mod page_log;
mod parallel;
mod presence;
mod processor;
mod state;
mod vmcs;

use ::checks::Lab;
use processor::Vmx;
use vm::{GuestMemory, Processor};

runtime::entry!(main);

/// As many as the runtime starts.
const CPUS: usize = 2;

fn main() {
    operation::enter();
    runtime::println!("machine vmx-ept: {:?}", Vmx::features());
    let lab = Lab::<Vmx>::new(guest_memory());
    let mut all = ::checks::for_every_processor();
    all.extend(checks::checks());
    if runtime::x86_64::cpus() > 1 {
        all.extend(parallel::checks());
    }
    ::checks::run(&lab, &all, runtime::print_line);
}

/// The data, 8 MiB from 2 MiB on, and as much again where slots move to. Each VM clears it, which
/// takes an emulator longer than most checks.
const GUEST_BYTES: usize = 20 << 20;

#[allow(unsafe_code)]
fn guest_memory() -> GuestMemory {
    let region = runtime::guest_memory();
    assert!(region.bytes >= GUEST_BYTES, "the guest's memory has {} bytes", region.bytes);
    // SAFETY: the runtime gives it to nobody else, aligned and for good.
    unsafe { GuestMemory::new(region.first, GUEST_BYTES as u64) }
}
