//! A small hypervisor on AMD's SVM with nested page tables.
//!
//! `processor.rs` is what the rest of the hypervisor sees of it; `exit.rs` says how the processor's
//! exits become the library's accesses, `entry.rs` is the way in and out.
#![no_std]
#![no_main]

extern crate alloc;

mod entry;
mod exit;
mod operation;
mod parallel;
mod presence;
mod processor;
mod state;
mod vmcb;

use checks::Lab;
use processor::Svm;
use vm::{GuestMemory, Processor};

runtime::entry!(main);

fn main() {
    operation::enter();
    runtime::println!("machine svm-npt: {:?}", Svm::features());
    let lab = Lab::<Svm>::new(guest_memory());
    let mut all = checks::for_every_processor();
    all.extend(x86_guest::walks::checks());
    if runtime::x86_64::cpus() > 1 {
        all.extend(checks::parallel::checks());
    }
    checks::run(&lab, &all, runtime::print_line);
}

#[allow(unsafe_code)]
fn guest_memory() -> GuestMemory {
    let region = runtime::guest_memory();
    // SAFETY: the runtime gives it to nobody else, aligned and for good.
    unsafe { GuestMemory::new(region.first, region.bytes as u64) }
}
