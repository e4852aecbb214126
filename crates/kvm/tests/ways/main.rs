//! Each way of the kernel's to keep a log, held to a copy of the guest's memory.
//!
//! Where there is no `/dev/kvm`, or the kernel lacks what a way needs, a test says `not run` and why.
#![cfg(target_arch = "x86_64")]

mod contract;
mod controls;
mod hostile;
mod native;
mod oracle;
mod refusals;
mod rings;
mod running;

use native::{Machine, Walk};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use vellum_kvm::{RingSize, Way};

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

/// Does `test` with a guest of one way, or says why not.
fn with(way: Way, walks: &[Walk], test: impl FnOnce(Machine)) {
    match Machine::new(way, small(), PAGES, walks) {
        Ok(machine) => test(machine),
        Err(reason) => not_run(&reason),
    }
}

/// Whether a way has rings.
fn has_rings(way: Way) -> bool {
    matches!(way, Way::Ring | Way::RingWithBitmap)
}

/// Whether a way clears range by range.
fn is_manual(way: Way) -> bool {
    matches!(way, Way::Manual | Way::ManualAllSet)
}

/// Says once why something was not run, past the harness, which keeps to itself what passing tests say.
fn not_run(reason: &impl ToString) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let said = format!("not run: {}", reason.to_string());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(said.clone()) {
        writeln!(std::io::stderr(), "{said}").expect("somebody listens");
    }
}
