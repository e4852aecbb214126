//! Each way of the kernel's to keep a log, held to a copy of the guest's memory.
//!
//! Where there is no `/dev/kvm`, or the kernel lacks what a way needs, a test says `not run` and why,
//! and `cargo xtask test` lists it.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

#[cfg(feature = "breaks")]
mod breaks;
mod contract;
mod controls;
mod hostile;
mod native;
mod oracle;
mod refusals;
mod rings;
mod running;
#[cfg(target_arch = "aarch64")]
mod tables;

use native::{Machine, Walk};
use vellum_kvm::{RingSize, Way, open};
use vellum_presence::{Need, given};

/// Pages of the data region: no multiple of 64, and more than a small ring holds.
const PAGES: u64 = 2051;

/// The smallest ring.
fn small() -> RingSize {
    RingSize::new(1024).expect("a size")
}

/// Two vCPUs that store to pages of their own.
fn apart(stores: u64) -> [Walk; 2] {
    let half = PAGES / 2;
    [Machine::walk(1, 0, half, stores), Machine::walk(2, half, PAGES - half, stores)]
}

/// Two vCPUs that store to the same pages.
fn together(stores: u64) -> [Walk; 2] {
    [Machine::walk(3, 0, PAGES, stores), Machine::walk(4, 0, PAGES, stores)]
}

/// Does `test` with a guest of each way that this machine has, and says which it has not.
fn each_way(walks: &[Walk], mut test: impl FnMut(Machine)) {
    for way in Way::ALL {
        with(way, walks, &mut test);
    }
}

/// The same with those that have rings.
fn each_ring(walks: &[Walk], mut test: impl FnMut(Machine)) {
    for way in Way::ALL.into_iter().filter(|&way| has_rings(way)) {
        with(way, walks, &mut test);
    }
}

/// Does `test` with a guest of one way, or says why not.
fn with(way: Way, walks: &[Walk], test: impl FnOnce(Machine)) {
    if let Some(machine) = machine(way, small(), PAGES, walks) {
        test(machine);
    }
}

/// A guest, where this machine can have one.
fn machine(way: Way, ring: RingSize, pages: u64, walks: &[Walk]) -> Option<Machine> {
    given(Need::Kvm, open())?;
    given(Need::KvmWay(way.name().to_owned()), Machine::new(way, ring, pages, walks))
}

/// The way with rings that this processor's kernels have.
const RING: Way = if cfg!(target_arch = "aarch64") { Way::RingWithBitmap } else { Way::Ring };

/// Whether a way has rings.
fn has_rings(way: Way) -> bool {
    matches!(way, Way::Ring | Way::RingWithBitmap)
}

/// Whether a way clears range by range.
fn is_manual(way: Way) -> bool {
    matches!(way, Way::Manual | Way::ManualAllSet)
}
