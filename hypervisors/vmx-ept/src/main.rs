//! A small hypervisor on Intel's VMX with extended page tables.
#![no_std]
#![no_main]

runtime::entry!(main);

fn main() {
    runtime::println!("machine vmx-ept");
}
