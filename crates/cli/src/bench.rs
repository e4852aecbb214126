//! `vellum bench`: one operation a file, our ways of doing it against each other.
//!
//! Every figure that counts is a ratio taken in one run, the ways in turns; times are there for
//! orientation. Nothing here is a test: a mark that is missed is shown as missed.

mod fault;
mod log;
mod metadata;
mod protect_all;
mod result;
mod ring_reset;
pub(crate) mod rival;
mod round;
mod sample;
mod storing;

use std::io::Write;

use crate::args::{Bench, BenchName};
use crate::failure::{End, Failure};
use vellum_machine::RAM_BASE;
use vellum_pte::{Gpa, PAGE_SIZE};

/// Runs one benchmark and prints it.
pub(crate) fn run(args: &Bench) -> Result<End, Failure> {
    let result = match args.bench {
        BenchName::ProtectAll => protect_all::run(args.memory),
        BenchName::Fault => fault::run(),
        BenchName::Log => log::run(args.memory),
        BenchName::Round => round::run(args.memory),
        BenchName::RingReset => ring_reset::run(args.memory),
        BenchName::Kvm => rival::kvm::run(args.memory),
        BenchName::Metadata { slot } => metadata::run(slot),
    }?;
    let text = if args.json { result.json() + "\n" } else { result.table() };
    // A reader that has gone away does not change what was measured.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(End::Done)
}

/// Says on standard error what is measured now: some of it takes seconds.
fn announce(setting: &str) {
    eprintln!("measuring {setting}");
}

/// How much of the memory is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Share {
    of_ten_thousand: u64,
    label: &'static str,
}

impl Share {
    const ALL: Self = Self { of_ten_thousand: 10_000, label: "100 %" };
    const LESS: [Self; 3] = [
        Self { of_ten_thousand: 10, label: "0.1 %" },
        Self { of_ten_thousand: 100, label: "1 %" },
        Self { of_ten_thousand: 1000, label: "10 %" },
    ];

    /// That many of `pages`, at least one.
    fn of(self, pages: u64) -> u64 {
        (pages * self.of_ten_thousand / 10_000).max(1)
    }
}

/// The address of a page of RAM.
fn page_at(page: u64) -> Gpa {
    Gpa::new(RAM_BASE.gpa().get() + page * PAGE_SIZE)
}
