//! The page-modification log as the dirty log: exits when it is full, hand-over when the log is read.
//!
//! Bochs writes the whole address of a store to the log, where the manual says that of its page (Intel
//! SDM vol. 3C, 29.3.6). So the stores here are to odd places: the library looks at the page alone.

use crate::processor::Vmx;
use ::checks::{Check, DATA, DATA_PAGES, Draw, Lab, Vm, data, done, page, settle_in};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{Again, Config, DirtyBits, Initial, LogMode, Protect, RingSize, SlotSpec};
use vellum_pte::{Gfn, GfnRange, Gpa, PAGE_SIZE};
use vm::{Guest, Op, Work};

pub(crate) fn checks() -> Vec<Check<Vmx>> {
    vec![
        Check::new("page-log-full", full),
        Check::new("page-log-by-pages", by_pages),
        Check::new("page-log-by-protecting-all", by_protecting_all),
        Check::new("page-log-one-fault-a-table", one_fault_a_table),
        Check::new("page-log-off-and-on", off_and_on),
        Check::new("page-log-of-a-slot-that-moves", of_a_slot_that_moves),
        Check::new("page-log-of-a-vcpu-that-goes", of_a_vcpu_that_goes),
        Check::new("page-log-into-a-ring", into_a_ring),
    ]
}

fn vm(lab: &Lab<Vmx>) -> Vm<Vmx> {
    let config = Config { dirty_bits: DirtyBits::Logged, ..lab.config() };
    Vm::new(lab.host(), config, LogMode::On)
}

/// One run of the guest that logs more than the buffer holds exits when it is full, as often as that
/// takes, and nothing is lost.
fn full(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    assert_eq!(vm.harvest(Protect::Pages).len() as u64, DATA_PAGES);
    let before = guest.exits();
    done(guest.store_pages(page(100), 1500, 2));
    let after = guest.exits();
    assert_eq!(after.faults, before.faults, "mapped and writable: no store faults");
    let exits = after.logs_full - before.logs_full;
    assert!((1500 / 512..=1 + 1500 / 512).contains(&exits), "{exits} exits for 1500 pages");
    assert_eq!(vm.harvest(Protect::Pages), (100..1600).collect::<Vec<u64>>());
    assert_eq!(vm.harvest(Protect::Pages), []);
    format!("1500 pages, {exits} full buffers, no fault")
}

/// Each harvest is exactly what was stored to since the last.
fn by_pages(lab: &Lab<Vmx>) -> String {
    rounds(lab, 0, |vm| vm.harvest(Protect::Pages))
}

/// The same when rounds end with write-protect-all.
fn by_protecting_all(lab: &Lab<Vmx>) -> String {
    // Once a round each table of leaves is opened, and the program's.
    rounds(lab, ROUNDS * (DATA_PAGES / 512 + 1), |vm| {
        let pages = vm.harvest(Protect::Nothing);
        vm.mmu.write_protect_all();
        pages
    })
}

const ROUNDS: u64 = 8;

fn rounds(lab: &Lab<Vmx>, most: u64, harvest: impl Fn(&Vm<Vmx>) -> Vec<u64>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    let mut draw = Draw::new(3);
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    harvest(&vm);
    let before = guest.exits().faults;
    let mut stored = 0;
    for round in 0..ROUNDS {
        let pages: BTreeSet<u64> = (0..150).map(|_| draw.below(DATA_PAGES)).collect();
        for index in &pages {
            store_at_odd_places(&mut guest, *index, &mut draw);
        }
        stored += pages.len();
        assert_eq!(harvest(&vm), Vec::from_iter(pages), "round {round}");
    }
    let faults = guest.exits().faults - before;
    assert!(faults <= most, "{faults} faults for {stored} pages");
    format!("{stored} pages in {ROUNDS} rounds, {faults} faults")
}

/// Two stores to one page, in one entry.
fn store_at_odd_places(guest: &mut Guest<'_, Vmx>, index: u64, draw: &mut Draw) {
    let offset = draw.below(PAGE_SIZE / 2 - 8);
    let first = Gpa::new(page(index).get() + offset);
    let value = draw.next();
    done(guest.run(Work { op: Op::Store, first, stride: PAGE_SIZE / 2, count: 2, value }));
}

/// After a write-protect-all the first store below each table of leaves faults, and no other.
fn one_fault_a_table(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    vm.harvest(Protect::Nothing);
    vm.mmu.write_protect_all();
    settle_in(&mut guest);
    let before = guest.exits();
    done(guest.store_pages(page(0), DATA_PAGES, 2));
    let after = guest.exits();
    let faults = after.faults - before.faults;
    assert_eq!(faults, DATA_PAGES / 512, "one for each 2 MiB");
    assert_eq!(vm.harvest(Protect::Nothing).len() as u64, DATA_PAGES);
    format!("{faults} faults for {DATA_PAGES} pages, {} full buffers", after.logs_full)
}

/// What was logged before a log begins is not in it.
fn off_and_on(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 300, 1));
    vm.mmu.stop_log(DATA).expect("a logged slot");
    done(guest.store_pages(page(0), 300, 2));
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    assert_eq!(vm.harvest(Protect::Pages), []);
    done(guest.store_pages(page(10), 5, 3));
    assert_eq!(vm.harvest(Protect::Pages), [10, 11, 12, 13, 14]);
    String::from("300 pages before the log, 5 in it")
}

/// What the buffer holds of a slot names where it was: it is handed over before the slot goes, and
/// the pages are in the log at their numbers.
fn of_a_slot_that_moves(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 50, 1));
    vm.harvest(Protect::Pages);
    done(guest.store_pages(page(20), 10, 2));
    let spec = data();
    let moved = GfnRange::new(Gfn::new(2 * DATA_PAGES), DATA_PAGES).expect("in range");
    vm.mmu.change_slot(SlotSpec { range: moved, log: LogMode::On, ..spec }).expect("room there");
    let there = |index: u64| Gpa::new((moved.first().get() + index) * PAGE_SIZE);
    done(guest.store(there(40), 3));
    let mut expected: Vec<u64> = (20..30).collect();
    expected.push(40);
    assert_eq!(vm.harvest(Protect::Pages), expected);
    format!("{} pages of both places", expected.len())
}

/// A vCPU that goes hands over what was logged for it: it is in its VM's log, and in no other's.
fn of_a_vcpu_that_goes(lab: &Lab<Vmx>) -> String {
    let first = vm(lab);
    let mut guest = first.guest();
    done(guest.store_pages(page(0), 20, 1));
    drop(guest);
    assert_eq!(first.harvest(Protect::Pages), (0..20).collect::<Vec<u64>>());
    let mut guest = first.guest();
    done(guest.store_pages(page(30), 10, 2));
    drop(guest);
    drop(first);
    let second = vm(lab);
    let mut guest = second.guest();
    done(guest.store(page(3), 3));
    assert_eq!(second.harvest(Protect::Pages), [3]);
    String::from("20 pages in the log of one VM, 1 in that of the next")
}

/// Where the vCPU has a dirty ring, what it hands over is in that, and what the log's reader takes is
/// in the bitmap: both together are what was stored.
fn into_a_ring(lab: &Lab<Vmx>) -> String {
    let ring = RingSize::new(2048, 512).expect("a size above the reserve");
    let config = Config { dirty_bits: DirtyBits::Logged, ring: Some(ring), ..lab.config() };
    let vm = Vm::new(lab.host(), config, LogMode::On);
    let mut guest = vm.guest();
    let mut in_ring = 0;
    for (round, again) in (0..).zip([Again::Pages, Again::Everything, Again::Pages]) {
        done(guest.store_pages(page(round * 10), 700, round));
        let mut pages = BTreeSet::new();
        vm.mmu.harvest_rings(|entry| {
            pages.insert(entry.page);
        });
        in_ring += pages.len();
        pages.extend(vm.harvest(Protect::Pages));
        assert_eq!(Vec::from_iter(pages), Vec::from_iter(round * 10..round * 10 + 700));
        vm.mmu.reset_rings(again);
    }
    assert!(in_ring > 3 * 512, "{in_ring} of 2100 pages were handed over by the vCPU");
    format!("3 rounds of 700 pages, {in_ring} in the ring")
}
