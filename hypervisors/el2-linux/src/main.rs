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
mod cpu;
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
mod second;
mod translations;
mod trapped;
mod vm;
mod way;

use core::sync::atomic::Ordering;
use firmware::Ended;
use handover::{Handover, Mistake};
use machine::Machine;
use record::Record;
use runtime::aarch64::beside;
use runtime::println;
use vm::Vm;

runtime::entry!(main);

fn main() {
    let handover = Handover::read();
    let way = handover.way.name();
    let (megabytes, cpus) = (handover.guest_bytes >> 20, handover.cpus);
    println!("machine el2-linux: {megabytes} MiB, {cpus} CPUs, {way}");
    match handover.mistake {
        Mistake::None => boots(&handover),
        Mistake::ShootDownsSkipped => break_is_caught(&handover),
    }
    println!("end {}", handover.before + 1);
}

/// Fewer harvests, or fewer changed pages, and little was shown.
const FEWEST_HARVESTS: usize = 20;
const FEWEST_CHANGED: u64 = 5000;

/// Runs a guest on all CPUs of `vm`, until it has ended or `enough` says so after a harvest.
fn run(vm: &Vm, machine: &mut Machine<'_>, enough: impl Fn(&Record) -> bool) -> Option<Ended> {
    let mut ended = None;
    if vm.second.is_present() {
        beside(|| vm.second.run(vm), || ended = machine.run(enough));
    } else {
        ended = machine.run(enough);
    }
    println!("");
    ended
}

/// The guest boots, works and switches itself off, and no page is lost.
fn boots(handover: &Handover) {
    let (way, what) = (handover.way.name(), if handover.cpus > 1 { "smp" } else { "boots" });
    println!("check linux-{what}-{way}");
    let vm = Vm::new(handover);
    let mut machine = Machine::new(&vm, handover);
    let ended = run(&vm, &mut machine, |_| false);
    assert_eq!(vm.second.is_present(), vm.second.has_begun(), "a CPU was not switched on");
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
    // Whoever harvests all of memory each time loses nothing either.
    let (harvested, changed) = (total.harvested, total.changed);
    assert!(harvested < 2 * changed, "{harvested} pages harvested, {changed} had changed");
    println!("met linux-{what}-{way}: {}", told(&record, &vm));
}

/// What a run has counted.
fn told(record: &Record, vm: &Vm) -> alloc::string::String {
    let shoot_downs = vm.mmu.embedder().shoot_downs();
    let total = record.total();
    let excess = (total.harvested - total.changed) * 100 / total.changed;
    alloc::format!(
        "{} harvests, {} pages in them, {} had changed, none lost, {excess} % too many; {} faults, \
         {shoot_downs} shoot-downs, {} register writes{}",
        record.harvests.len(),
        total.harvested,
        total.changed,
        vm.faults.load(Ordering::Relaxed),
        vm.register_writes.load(Ordering::Relaxed),
        Rest(record)
    )
}

/// What only some runs have.
struct Rest<'r>(&'r Record);

impl core::fmt::Display for Rest<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Record { blocks, under_way, not_halted, .. } = self.0;
        if let Some(most) = blocks.iter().max() {
            write!(f, "; {} logs more, over {most} huge leaves at most", blocks.len())?;
        }
        if *under_way > 0 {
            write!(f, "; {under_way} harvests more while a CPU ran, {not_halted} halts in vain")?;
        }
        Ok(())
    }
}

/// Without shoot-downs a page is lost, and the oracle says so.
fn break_is_caught(handover: &Handover) {
    let way = handover.way.name();
    println!("check linux-break-is-caught-{way}");
    let vm = Vm::new(handover);
    let mut machine = Machine::new(&vm, handover);
    let ended = run(&vm, &mut machine, |record| record.last().lost > 0);
    let lost = machine.record.last().lost;
    assert!(lost > 0, "no shoot-down was made, and no page was lost until {ended:?}");
    let harvests = machine.record.harvests.len();
    println!("met linux-break-is-caught-{way}: LOST {lost} pages at harvest {harvests}");
}
