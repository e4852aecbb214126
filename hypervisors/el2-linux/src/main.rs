//! A thin hypervisor at Arm's EL2: it gives its machine to an operating system that somebody else has
//! built, and keeps the second stage. Interrupts, timers and the serial line are the guest's.
//!
//! While the guest boots and works, it harvests again and again, and an oracle that does not know the
//! library compares the guest's memory with what it was: each page that has changed since the last
//! harvest is in this one.
#![no_std]
#![no_main]
#![expect(clippy::cast_possible_truncation, reason = "on this processor a usize has 64 bits")]

extern crate alloc;

mod blocks;
mod clock;
mod exit;
mod firmware;
mod guest;
mod handover;
mod host;
mod machine;
mod oracle;
mod pace;
mod record;
mod registers;
mod translations;
mod trapped;
mod way;

use firmware::Ended;
use handover::{Handover, Mistake};
use machine::{Machine, second_stage};
use record::Record;
use runtime::println;

runtime::entry!(main);

fn main() {
    let handover = Handover::read();
    let way = handover.way.name();
    println!("machine el2-linux: {} MiB, {way}", handover.guest_bytes >> 20);
    match handover.mistake {
        Mistake::None => boots(&handover),
        Mistake::ShootDownsSkipped => break_is_caught(&handover),
    }
    println!("end {}", handover.before + 1);
}

/// Fewer harvests, or fewer changed pages, and little was shown.
const FEWEST_HARVESTS: usize = 20;
const FEWEST_CHANGED: u64 = 5000;

/// The guest boots, works and switches itself off, and no page is lost.
fn boots(handover: &Handover) {
    let way = handover.way.name();
    println!("check linux-boots-{way}");
    let mmu = second_stage(handover);
    let mut machine = Machine::new(&mmu, handover);
    let ended = machine.run(|_| false);
    println!("");
    let record = machine.record;
    record.print();
    assert_eq!(ended, Some(Ended::Off), "the guest was to do its work and switch itself off");
    let total = record.total();
    let harvests = record.harvests.len();
    assert_eq!(total.lost, 0, "LOST: pages that changed and are in no harvest");
    assert!(harvests > FEWEST_HARVESTS, "{harvests} harvests");
    assert!(total.changed > FEWEST_CHANGED, "{} pages changed", total.changed);
    if handover.way.harvests_of_a_log().is_some() {
        assert!(record.blocks.iter().all(|blocks| *blocks > 0), "no huge leaf came back");
        assert!(record.blocks.len() > 2, "the log has hardly stopped");
    }
    let pages = harvests as u64 * (handover.guest_bytes >> 12);
    assert!(total.harvested * 4 < pages, "{} of {pages} pages harvested", total.harvested);
    println!("met linux-boots-{way}: {}", told(&record, mmu.embedder().shoot_downs()));
}

/// What a run has counted.
fn told(record: &Record, shoot_downs: u64) -> alloc::string::String {
    let total = record.total();
    let excess = (total.harvested - total.changed) * 100 / total.changed;
    alloc::format!(
        "{} harvests, {} pages in them, {} had changed, none lost, {excess} % too many; {} faults, \
         {shoot_downs} shoot-downs, {} register writes{}",
        record.harvests.len(),
        total.harvested,
        total.changed,
        record.faults,
        record.register_writes,
        Blocks(&record.blocks)
    )
}

/// How many huge leaves there were, where there were any.
struct Blocks<'r>(&'r [usize]);

impl core::fmt::Display for Blocks<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0.iter().max() {
            Some(most) => {
                write!(f, "; {} logs more, over {most} huge leaves at most", self.0.len())
            }
            None => Ok(()),
        }
    }
}

/// Without shoot-downs a page is lost, and the oracle says so.
fn break_is_caught(handover: &Handover) {
    let way = handover.way.name();
    println!("check linux-break-is-caught-{way}");
    let mmu = second_stage(handover);
    let mut machine = Machine::new(&mmu, handover);
    let ended = machine.run(|record| record.last().lost > 0);
    println!("");
    let lost = machine.record.last().lost;
    assert!(lost > 0, "no shoot-down was made, and no page was lost until {ended:?}");
    let harvests = machine.record.harvests.len();
    println!("met linux-break-is-caught-{way}: LOST {lost} pages at harvest {harvests}");
}
