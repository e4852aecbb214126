//! Huge leaves: used, split by the log, brought back.

use crate::Check;
use crate::lab::{DATA, DATA_PAGES, Lab, done, page, settle_in};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{HugeLeaves, Initial, LogMode, Protect};
use vm::{Processor, Ran};

const LEAVES: u64 = DATA_PAGES / 512;

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![
        Check::new("huge-map", huge_map),
        Check::new("huge-split-by-a-write", split_by_a_write),
        Check::new("huge-split-ahead", split_ahead),
        Check::new("huge-brought-back", brought_back),
    ]
}

/// One fault maps 2 MiB.
fn huge_map<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    settle_in(&mut guest);
    let before = guest.exits().faults;
    done(guest.store_pages(page(0), DATA_PAGES, 7));
    let faults = guest.exits().faults - before;
    assert_eq!(faults, LEAVES, "one for each huge leaf");
    assert_eq!(vm.read(page(DATA_PAGES - 1)), 7);
    format!("{faults} faults for {DATA_PAGES} pages")
}

/// A log that starts finds one huge leaf a write, and logs 4 KiB of it.
fn split_by_a_write<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    let expected = [3, 4, 700, 1500];
    for index in expected {
        done(guest.store(page(index), 2));
    }
    assert_eq!(vm.harvest(Protect::Pages), expected);
    done(guest.store(page(4), 3));
    assert_eq!(vm.harvest(Protect::Pages), [4]);
    assert_eq!(guest.load(page(5)), Ran::Done(1), "what was not stored to is still there");
    assert_eq!(guest.load(page(4)), Ran::Done(3));
    format!("{expected:?} of {DATA_PAGES} pages")
}

/// Split ahead of its writes, a leaf costs its writers a fault for each page and no split.
fn split_ahead<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::Off);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    let report = vm.mmu.split_huge(DATA, u64::MAX).expect("a slot with memory for tables");
    assert_eq!((report.tables, report.left), (LEAVES, HugeLeaves::None));
    let before = vm.shoot_downs();
    done(guest.store_pages(page(0), DATA_PAGES, 2));
    assert_eq!(vm.shoot_downs(), before, "the writes split nothing");
    assert_eq!(vm.harvest(Protect::Pages).len() as u64, DATA_PAGES);
    format!("{LEAVES} leaves split")
}

/// When the log ends, small leaves become huge ones again, and the memory is what it was.
fn brought_back<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.huge(LogMode::On);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 5));
    assert_eq!(vm.harvest(Protect::Nothing).len() as u64, DATA_PAGES);
    vm.mmu.stop_log(DATA).expect("a logged slot");
    let before = guest.exits().faults;
    for index in [0, 511, 512, 2047] {
        assert_eq!(guest.load(page(index)), Ran::Done(5));
    }
    done(guest.store_pages(page(0), DATA_PAGES, 6));
    let faults = guest.exits().faults - before;
    assert!(faults <= LEAVES, "{faults} faults: the leaves are huge");
    format!("{faults} faults for {DATA_PAGES} pages after the log")
}
