//! A small hypervisor on AMD's SVM with nested paging.
#![no_std]
#![no_main]

runtime::entry!(main);

fn main() {
    runtime::println!("machine svm-npt");
}
