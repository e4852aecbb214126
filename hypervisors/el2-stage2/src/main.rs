//! A small hypervisor at Arm's EL2, with stage-2 tables.
#![no_std]
#![no_main]

runtime::entry!(main);

fn main() {
    runtime::println!("machine el2-stage2");
}
