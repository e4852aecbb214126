//! Two vCPUs of one VM on two CPUs.

use crate::Check;
use crate::lab::{DATA, Lab, Vm, done, page};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vellum_mmu::{Config, DirtyBits, Initial, LogMode, Outcome, Protect};
use vellum_pte::{Gpa, PAGE_SIZE};
use vm::{Guest, Op, Processor, Ran, ShootDowns, Work};

/// A processor that there are two of.
pub trait Parallel: Processor {
    /// Does `there` on the second CPU, which is ready for guests, while it does `here` on this one.
    /// Returns when both are done.
    fn beside(there: impl FnOnce() + Send, here: impl FnOnce());
}

/// The checks of machines with two CPUs.
#[must_use]
pub fn checks<P: Parallel>() -> Vec<Check<P>> {
    let mut all = vec![
        Check::new("parallel-faults", faults),
        Check::new("parallel-stores-and-harvests", stores_and_harvests),
        Check::new("parallel-splits", splits),
        Check::new("parallel-shoot-down", shoot_down),
        Check::new("parallel-shoot-down-skipped", shoot_down_skipped),
    ];
    if P::features().accessed_dirty {
        all.push(Check::new("parallel-dirty-bits", dirty_bits));
    }
    all
}

/// How two CPUs wait for each other: each counts up, and waits for the other's count.
#[derive(Default)]
struct Meeting([AtomicU64; 2]);

impl Meeting {
    /// Returns when both CPUs have called it equally often.
    fn wait(&self, cpu: usize) {
        let count = self.0[cpu].fetch_add(1, Ordering::SeqCst) + 1;
        while self.0[1 - cpu].load(Ordering::SeqCst) < count {
            spin_loop();
        }
    }
}

/// The pages that each CPU's guest stores to: those in the middle are both's.
const FIRST: [u64; 2] = [0, 6];
const STORED: u64 = 16;
/// Both together store to the first pages of the data, so many.
pub const ALL: u64 = 22;
const FAULT_ROUNDS: u64 = 200;

/// Both vCPUs fault at once on the same pages and on others; a harvest has exactly what was stored to.
fn faults<P: Parallel>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let meeting = Meeting::default();
    let rounds = |cpu: usize, between: &dyn Fn(u64)| {
        let mut guest = vm.guest();
        for round in 1..=FAULT_ROUNDS {
            meeting.wait(cpu);
            store(&mut guest, cpu, round);
            meeting.wait(cpu);
            between(round);
        }
        guest.exits().faults
    };
    let harvest = |round: u64| {
        assert_eq!(harvest(&vm, round), (0..ALL).collect::<Vec<_>>(), "in round {round}");
        (0..2).for_each(|cpu| stored(&vm, cpu, round));
    };
    let [here, there] = [AtomicU64::new(0), AtomicU64::new(0)];
    P::beside(
        || there.store(rounds(1, &|_| ()), Ordering::SeqCst),
        || here.store(rounds(0, &harvest), Ordering::SeqCst),
    );
    let total = here.into_inner() + there.into_inner();
    assert!(total >= FAULT_ROUNDS * ALL, "{total} faults: each page faults in each round");
    format!("{FAULT_ROUNDS} harvests of {ALL} pages, {} of them both's", 2 * STORED - ALL)
}

/// Has the guest of a CPU store to its pages, at an offset of its own.
fn store<P: Parallel>(guest: &mut Guest<'_, P>, cpu: usize, value: u64) {
    let first = place(FIRST[cpu], cpu);
    done(guest.run(Work { op: Op::Store, first, stride: PAGE_SIZE, count: STORED, value }));
}

fn place(index: u64, cpu: usize) -> Gpa {
    Gpa::new(page(index).get() + 8 * cpu as u64)
}

/// What a CPU's guest was to store is there.
fn stored<P: Parallel>(vm: &Vm<P>, cpu: usize, value: u64) {
    let pages = FIRST[cpu]..FIRST[cpu] + STORED;
    pages.for_each(|index| assert_eq!(vm.read(place(index, cpu)), value));
}

/// By pages for even numbers, by protecting all for odd ones.
fn harvest<P: Parallel>(vm: &Vm<P>, round: u64) -> Vec<u64> {
    if round.is_multiple_of(2) {
        return vm.harvest(Protect::Pages);
    }
    let pages = vm.harvest(Protect::Nothing);
    vm.mmu.write_protect_all();
    pages
}

/// Memory as a consumer of harvests knows it: what is harvested is copied then, as a migration does.
struct Copy(Vec<[u64; 2]>);

impl Copy {
    fn new() -> Self {
        Self(vec![[0; 2]; usize::try_from(ALL).expect("a few pages")])
    }

    fn update<P: Parallel>(&mut self, vm: &Vm<P>, pages: &[u64]) {
        for index in pages {
            self.0[usize::try_from(*index).expect("a few pages")] = words(vm, *index);
        }
    }

    /// The pages that changed after they were copied last.
    fn stale<P: Parallel>(&self, vm: &Vm<P>) -> Vec<u64> {
        let pages = (0..ALL).zip(&self.0);
        pages.filter(|(index, copy)| words(vm, *index) != **copy).map(|(index, _)| index).collect()
    }
}

fn words<P: Parallel>(vm: &Vm<P>, index: u64) -> [u64; 2] {
    [0, 1].map(|cpu| vm.read(place(index, cpu)))
}

const STRETCHES: u64 = 20;
const HARVESTS: u64 = 20;

/// A guest that stores to its pages all the time, on the second CPU.
#[derive(Default)]
struct Storing {
    rounds: AtomicU64,
    is_to_rest: AtomicBool,
    is_at_rest: AtomicBool,
    is_over: AtomicBool,
}

impl Storing {
    fn until_over<P: Parallel>(&self, vm: &Vm<P>) {
        let mut guest = vm.guest();
        while !self.is_over.load(Ordering::SeqCst) {
            let round = self.rounds.fetch_add(1, Ordering::SeqCst) + 1;
            store(&mut guest, 1, round);
            self.rest_if_asked();
        }
    }

    fn rest_if_asked(&self) {
        while self.is_to_rest.load(Ordering::SeqCst) {
            self.is_at_rest.store(true, Ordering::SeqCst);
            spin_loop();
        }
        self.is_at_rest.store(false, Ordering::SeqCst);
    }

    /// Does `meanwhile` while it does not store.
    fn at_rest(&self, meanwhile: impl FnOnce()) {
        self.is_to_rest.store(true, Ordering::SeqCst);
        while !self.is_at_rest.load(Ordering::SeqCst) {
            spin_loop();
        }
        meanwhile();
        self.is_to_rest.store(false, Ordering::SeqCst);
        while self.is_at_rest.load(Ordering::SeqCst) {
            spin_loop();
        }
    }

    /// Returns when it has stored to each of its pages since.
    fn another_round(&self) {
        let before = self.rounds.load(Ordering::SeqCst);
        while self.rounds.load(Ordering::SeqCst) < before + 2 {
            spin_loop();
        }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// One guest stores all the time; the other CPU's guest stores as well, and harvests. From time to time
/// all is at rest: whatever a guest stored is in a harvest then, and the copies are what memory is. One
/// stretch goes by pages, the next by protecting all, so that neither makes good what the other loses.
pub fn storm<P: Parallel>(vm: &Vm<P>) -> String {
    let storing = Storing::default();
    let mut copy = Copy::new();
    let here = || {
        let mut guest = vm.guest();
        for stretch in 0..STRETCHES {
            for round in 0..HARVESTS {
                // Mostly in the middle of the other's faults, which come after each harvest.
                if round.is_multiple_of(4) {
                    storing.another_round();
                }
                store(&mut guest, 0, stretch * HARVESTS + round);
                copy.update(vm, &harvest(vm, stretch));
            }
            storing.at_rest(|| {
                copy.update(vm, &harvest(vm, stretch));
                assert_eq!(copy.stale(vm), [], "changed after their last harvest");
            });
        }
        storing.end();
    };
    P::beside(|| storing.until_over(vm), here);
    let harvests = STRETCHES * (HARVESTS + 1);
    format!("{harvests} harvests of {STORED} pages that are stored to all the time, none lost")
}

fn stores_and_harvests<P: Parallel>(lab: &Lab<P>) -> String {
    storm(&lab.logged())
}

/// The same by D bits: the one CPU's walker sets them while the other looks for them and clears them.
fn dirty_bits<P: Parallel>(lab: &Lab<P>) -> String {
    let config = Config { dirty_bits: DirtyBits::Scanned, ..lab.config() };
    storm(&Vm::new(lab.host(), config, LogMode::On))
}

const STORES: u64 = 100;

/// A guest stores to one page all the time, without an exit of its own. The other CPU takes each store
/// back after a harvest, and waits for the next one: how many of these were in no harvest.
fn lost<P: Parallel>(lab: &Lab<P>, policy: ShootDowns) -> usize {
    let vm = Vm::new(lab.host().with_shoot_downs(policy), lab.config(), LogMode::On);
    let endless = Work { op: Op::Store, first: page(0), stride: 0, count: u64::MAX, value: 1 };
    let there = || {
        let ended = vm.guest().run(endless);
        assert_eq!(ended, Ran::Stopped(Outcome::Mmio), "until its memory goes");
    };
    let mut lost = 0;
    let here = || {
        wait_for_a_store(&vm);
        vm.harvest(Protect::Pages);
        for _ in 0..STORES {
            vm.mmu.embedder().memory().write(page(0), &[0; 8]).expect("the guest's memory");
            wait_for_a_store(&vm);
            lost += usize::from(vm.harvest(Protect::Pages).is_empty());
        }
        vm.mmu.delete_slot(DATA).expect("a slot");
        // The one that ends it is made in any case.
        P::shoot_down();
    };
    P::beside(there, here);
    lost
}

fn wait_for_a_store<P: Parallel>(vm: &Vm<P>) {
    while vm.read(page(0)) == 0 {
        spin_loop();
    }
}

/// After a harvest's shoot-down the guest cannot store without a fault, though it has not left.
fn shoot_down<P: Parallel>(lab: &Lab<P>) -> String {
    assert_eq!(lost(lab, ShootDowns::Made), 0, "stores after a shoot-down that were not logged");
    format!("{STORES} stores after a harvest, each in the next one")
}

/// Without shoot-downs it can: so the check above can fail, and this processor needs them.
fn shoot_down_skipped<P: Parallel>(lab: &Lab<P>) -> String {
    let lost = lost(lab, ShootDowns::Skipped);
    assert_ne!(lost, 0, "a TLB that forgets by itself proves no shoot-down");
    String::from("stores went by the log on the CPU that was not told")
}

const LOGS: u64 = 50;

/// Logs that start and end while a guest stores: the huge leaf under its stores is split, and comes back.
/// A harvest has what it stored after the start.
fn splits<P: Parallel>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let storing = Storing::default();
    let stored: Vec<u64> = (FIRST[1]..FIRST[1] + STORED).collect();
    let here = || {
        for round in 0..LOGS {
            storing.another_round();
            vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
            storing.another_round();
            assert_eq!(harvest(&vm, round), stored, "in round {round}");
            vm.mmu.stop_log(DATA).expect("a logged slot");
        }
        storing.end();
    };
    P::beside(|| storing.until_over(&vm), here);
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    let report = vm.mmu.split_huge(DATA, u64::MAX).expect("memory for a table");
    assert_eq!(report.tables, 1, "the leaf has come back");
    format!("{LOGS} logs of {STORED} pages in a huge leaf")
}
