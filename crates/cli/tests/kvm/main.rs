//! `vellum migrate --machine kvm`: native guests.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod bench;
mod gate;
mod on_kvm;
#[path = "../session/mod.rs"]
mod session;
mod without;
