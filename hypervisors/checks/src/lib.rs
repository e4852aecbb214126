//! What the library claims, checked on a processor: each check makes a VM, lets its guest work, and
//! compares what the library says with what was done.
//!
//! A check that is not met panics. What it prints when it is met are counts, which are the same on
//! each run.
#![no_std]

extern crate alloc;

mod dirty_bits;
mod draw;
mod huge;
mod lab;
mod log;
pub mod parallel;
mod protect_all;
mod random;
mod ring;
mod slots;
mod sub_pages;
mod tracking;

pub use draw::Draw;
pub use lab::{DATA, DATA_PAGES, Lab, Vm, data, done, layout, page, settle_in};

use alloc::string::String;
use alloc::vec::Vec;
use vm::Processor;

/// A claim, and how it is checked.
pub struct Check<P> {
    /// What it is called in reports.
    pub name: &'static str,
    /// Checks it, and says what was counted.
    pub run: fn(&Lab<P>) -> String,
}

impl<P> Check<P> {
    /// A check of that name.
    pub const fn new(name: &'static str, run: fn(&Lab<P>) -> String) -> Self {
        Self { name, run }
    }
}

/// The checks that every processor has to meet.
#[must_use]
pub fn for_every_processor<P: Processor>() -> Vec<Check<P>> {
    let mut all = log::checks();
    all.extend(protect_all::checks());
    all.extend(huge::checks());
    all.extend(slots::checks());
    all.extend(tracking::checks());
    all.extend(sub_pages::checks());
    all.extend(dirty_bits::checks());
    all.extend(ring::checks());
    all.extend(random::checks());
    all
}

/// Runs `checks` one after the other, and tells `print` of each that is met.
pub fn run<P: Processor>(
    lab: &Lab<P>,
    checks: &[Check<P>],
    mut print: impl FnMut(core::fmt::Arguments<'_>),
) {
    for check in checks {
        print(format_args!("check {}", check.name));
        let counted = (check.run)(lab);
        print(format_args!("met {}: {counted}", check.name));
    }
    print(format_args!("end {}", checks.len()));
}
