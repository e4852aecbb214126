//! Two vCPUs of one VM on two CPUs.

use crate::cpu::El2;
use crate::stage2;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, Lab, Vm, done, page};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use runtime::aarch64::beside;
use vellum_mmu::{LogMode, Protect};
use vellum_pte::{Gpa, PAGE_SIZE};
use vm::{Guest, Op, ShootDowns, Work};

pub(super) fn checks() -> Vec<Check<El2>> {
    vec![
        Check::new("parallel-faults", faults),
        Check::new("parallel-stores-and-harvests", stores_and_harvests),
        Check::new("parallel-shoot-down-skipped", shoot_down_skipped),
    ]
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

/// The pages that each CPU's guest stores to: the middle third is both's.
const FIRST: [u64; 2] = [0, 8];
const STORED: u64 = 16;
const ALL: u64 = 24;
const FAULT_ROUNDS: u64 = 200;

/// Both vCPUs fault at once on the same pages and on others; a harvest has exactly what was stored to.
fn faults(lab: &Lab<El2>) -> String {
    let vm = lab.logged();
    let meeting = Meeting::default();
    let rounds = |cpu: usize, between: &dyn Fn(u64)| {
        stage2::prepare();
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
    beside(
        || there.store(rounds(1, &|_| ()), Ordering::SeqCst),
        || here.store(rounds(0, &harvest), Ordering::SeqCst),
    );
    let total = here.into_inner() + there.into_inner();
    assert!(total >= FAULT_ROUNDS * ALL, "{total} faults: each page faults in each round");
    format!("{FAULT_ROUNDS} harvests of {ALL} pages, {} of them both's", 2 * STORED - ALL)
}

/// Has the guest of a CPU store to its pages, at an offset of its own.
fn store(guest: &mut Guest<'_, El2>, cpu: usize, value: u64) {
    let first = place(FIRST[cpu], cpu);
    done(guest.run(Work { op: Op::Store, first, stride: PAGE_SIZE, count: STORED, value }));
}

fn place(index: u64, cpu: usize) -> Gpa {
    Gpa::new(page(index).get() + 8 * cpu as u64)
}

/// What a CPU's guest was to store is there.
fn stored(vm: &Vm<El2>, cpu: usize, value: u64) {
    let pages = FIRST[cpu]..FIRST[cpu] + STORED;
    pages.for_each(|index| assert_eq!(vm.read(place(index, cpu)), value));
}

/// By pages and by protecting all, in turn.
fn harvest(vm: &Vm<El2>, round: u64) -> Vec<u64> {
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

    fn update(&mut self, vm: &Vm<El2>, pages: &[u64]) {
        for index in pages {
            self.0[usize::try_from(*index).expect("a few pages")] = words(vm, *index);
        }
    }

    /// The pages that changed after they were copied last.
    fn stale(&self, vm: &Vm<El2>) -> Vec<u64> {
        let pages = (0..ALL).zip(&self.0);
        pages.filter(|(index, copy)| words(vm, *index) != **copy).map(|(index, _)| index).collect()
    }
}

fn words(vm: &Vm<El2>, index: u64) -> [u64; 2] {
    [0, 1].map(|cpu| vm.read(place(index, cpu)))
}

const HARVESTS: u64 = 200;
/// The count of a CPU that has no more to do.
const OVER: u64 = u64::MAX;

/// One guest stores all the time; the other stores, harvests and protects all, each time after another
/// round of the first one. The pages whose copies are not what memory is in the end.
fn storm(lab: &Lab<El2>, policy: ShootDowns) -> Vec<u64> {
    let vm = Vm::new(lab.host().with_shoot_downs(policy), lab.config(), LogMode::On);
    let Meeting(rounds) = Meeting::default();
    let mut copy = Copy::new();
    let another_round = || {
        let before = rounds[1].load(Ordering::SeqCst);
        while rounds[1].load(Ordering::SeqCst) < before + 2 {
            spin_loop();
        }
    };
    let there = || {
        stage2::prepare();
        let mut guest = vm.guest();
        while rounds[0].load(Ordering::SeqCst) != OVER {
            let round = rounds[1].fetch_add(1, Ordering::SeqCst) + 1;
            store(&mut guest, 1, round);
        }
    };
    let here = || {
        let mut guest = vm.guest();
        for round in 1..=HARVESTS {
            another_round();
            store(&mut guest, 0, round);
            copy.update(&vm, &harvest(&vm, round));
        }
        another_round();
        rounds[0].store(OVER, Ordering::SeqCst);
    };
    beside(there, here);
    copy.update(&vm, &vm.harvest(Protect::Pages));
    copy.stale(&vm)
}

/// Whatever a guest stored while the other CPU harvested or protected all is in that harvest or in a
/// later one: at the end the copies are what memory is.
fn stores_and_harvests(lab: &Lab<El2>) -> String {
    assert_eq!(storm(lab, ShootDowns::Made), [], "pages that changed after their last harvest");
    format!("{HARVESTS} harvests of {STORED} pages that are stored to all the time, none lost")
}

/// The same without shoot-downs: the other CPU stores through what its TLB holds, and the copies are
/// not what memory is. So the check above can fail.
fn shoot_down_skipped(lab: &Lab<El2>) -> String {
    let stale = storm(lab, ShootDowns::Skipped);
    assert!(!stale.is_empty(), "a TLB that forgets by itself proves no shoot-down");
    String::from("pages lost on the CPU that was not told")
}
