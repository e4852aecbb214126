//! Write-protect-all: what it costs, and what is paid later.

use crate::Check;
use crate::lab::{DATA_PAGES, Lab, done, page, settle_in};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::Protect;
use vellum_pte::{ClosedTable, Format};
use vm::{Op, Processor, Work};

/// Tables of leaves that the data is in: 2 MiB each.
const TABLES: u64 = DATA_PAGES / 512;

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![
        Check::new("push-down", push_down),
        Check::new("reads-under-protect-all", reads_under_protect_all),
        Check::new("protect-all-off", protect_all_off),
    ]
}

/// Everything is pushed down by the faults that log: no store costs a second one.
fn push_down<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    vm.harvest(Protect::Nothing);
    vm.mmu.write_protect_all();
    settle_in(&mut guest);
    let before = guest.exits().faults;
    done(guest.store_pages(page(0), DATA_PAGES, 2));
    let faults = guest.exits().faults - before;
    assert!(faults >= DATA_PAGES, "every store is noticed");
    assert!(faults <= DATA_PAGES + linked_again::<P>(), "one fault a page, and its way");
    assert_eq!(vm.harvest(Protect::Nothing).len() as u64, DATA_PAGES);
    format!("{faults} faults for {DATA_PAGES} pages in {TABLES} tables")
}

/// A load costs nothing where tables have permissions, and where they are parked at most one fault
/// for each closed entry on its way.
fn reads_under_protect_all<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    vm.harvest(Protect::Nothing);
    vm.mmu.write_protect_all();
    settle_in(&mut guest);
    let before = guest.exits().faults;
    let loads = Work { op: Op::Load, first: page(0), stride: 4096, count: DATA_PAGES, value: 0 };
    done(guest.run(loads));
    let faults = guest.exits().faults - before;
    assert!(faults <= linked_again::<P>(), "{faults} faults for loads");
    assert_eq!(vm.harvest(Protect::Nothing), [], "a load makes nothing dirty");
    done(guest.store(page(9), 2));
    assert_eq!(vm.harvest(Protect::Nothing), [9], "the store after it is noticed");
    format!("{faults} faults for loads of {DATA_PAGES} pages")
}

/// Switched off, what is closed opens, and single pages are protected as before.
fn protect_all_off<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 600, 1));
    vm.harvest(Protect::Nothing);
    vm.mmu.write_protect_all();
    vm.mmu.write_protect_all_off();
    done(guest.store(page(5), 2));
    done(guest.store(page(555), 2));
    assert_eq!(vm.harvest(Protect::Pages), [5, 555]);
    done(guest.store(page(5), 3));
    assert_eq!(vm.harvest(Protect::Pages), [5]);
    String::from("closed entries opened, pages logged")
}

/// Faults that only link a parked table again: at most one for each table of leaves, and one for
/// each on the way to them.
fn linked_again<P: Processor>() -> u64 {
    match P::Format::CLOSED_TABLE {
        ClosedTable::ReadOnly => 0,
        ClosedTable::Parked => TABLES + 3,
    }
}
