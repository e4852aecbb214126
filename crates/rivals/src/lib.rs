//! What benchmarks measure against: other ways to learn of a write on Linux, driven by hand and as
//! well as we can. Nothing else uses them.
//!
//! | module | what |
//! |---|---|
//! | [`signal`] | `mprotect`, and a handler of `SIGSEGV` that lets a page be written |
//! | [`kvm`] | the dirty log of `/dev/kvm` by bare ioctls, a bitmap or a ring |
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

pub mod kvm;
pub mod signal;
