//! Mapping on demand, and the dirty log in its forms.

use crate::Check;
use crate::lab::{DATA, Lab, Vm, done, layout, page, settle_in};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_memory::PageSet;
use vellum_mmu::{ClearRange, Initial, LogMode, Protect};
use vellum_pte::Gpa;
use vm::{Guest, Processor, Ran};

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![
        Check::new("map-on-fault", map_on_fault),
        Check::new("log-by-pages", log_by_pages),
        Check::new("log-by-protecting-all", log_by_protecting_all),
        Check::new("log-all-set", log_all_set),
        Check::new("log-manual", log_manual),
        Check::new("log-off-and-on", log_off_and_on),
    ]
}

/// Each page is mapped by its first access, and what the guest stores is in its memory.
fn map_on_fault<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store(page(0), 1));
    let first = guest.exits().faults;
    done(guest.store_pages(page(1), 100, 0x1234));
    let faults = guest.exits().faults - first;
    assert_eq!(faults, 100, "one fault a page");
    done(guest.store_pages(page(1), 100, 0x1234));
    assert_eq!(guest.exits().faults - first, 100, "and none the second time");
    assert_eq!(vm.read(page(100)), 0x1234);
    assert_eq!(guest.load(page(100)), Ran::Done(0x1234));
    format!("{faults} faults for 100 pages")
}

/// A harvest has the pages that were stored to, and each of them faults again, once.
fn log_by_pages<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    settle_in(&mut guest);
    for round in 0..4 {
        let before = guest.exits().faults;
        stores_are_harvested(&vm, &mut guest, round, |vm| vm.harvest(Protect::Pages));
        assert_eq!(guest.exits().faults - before, 100, "one fault a page in round {round}");
    }
    format!("4 rounds, {} shoot-downs", vm.shoot_downs())
}

/// The same with one write-protect-all a round: its cost is that of the root, whatever is mapped.
fn log_by_protecting_all<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    for round in 0..4 {
        let before = guest.exits().faults;
        stores_are_harvested(&vm, &mut guest, round, |vm| {
            let pages = vm.harvest(Protect::Nothing);
            let before = vm.shoot_downs();
            vm.mmu.write_protect_all();
            assert_eq!(vm.shoot_downs() - before, 1, "one shoot-down");
            pages
        });
        assert!(guest.exits().faults - before >= 100, "a fault a page in round {round}");
    }
    format!("4 rounds, {} shoot-downs", vm.shoot_downs())
}

/// Stores to every third page of a stretch that moves from round to round by less than its length.
fn stores_are_harvested<P: Processor>(
    vm: &Vm<P>,
    guest: &mut Guest<'_, P>,
    round: u64,
    harvest: impl Fn(&Vm<P>) -> Vec<u64>,
) {
    let expected: Vec<u64> = (0..100).map(|step| round * 30 + step * 3).collect();
    for index in &expected {
        done(guest.store(page(*index), round + 1));
        done(guest.store(beside(page(*index)), round + 1));
    }
    assert_eq!(harvest(vm), expected, "what was stored to in round {round}");
    for index in &expected {
        assert_eq!(guest.load(page(*index)), Ran::Done(round + 1));
    }
}

/// The eight bytes after those at `gpa`.
fn beside(gpa: Gpa) -> Gpa {
    Gpa::new(gpa.get() + 8)
}

/// A log that starts with all pages set gives them once.
fn log_all_set<P: Processor>(lab: &Lab<P>) -> String {
    let vm = Vm::new(lab.host(), lab.config(), LogMode::AllSet);
    let mut guest = vm.guest();
    assert_eq!(vm.harvest(Protect::Pages).len() as u64, crate::DATA_PAGES);
    done(guest.store(page(7), 1));
    assert_eq!(vm.harvest(Protect::Pages), [7]);
    format!("{} pages, then 1", crate::DATA_PAGES)
}

/// Reading leaves the log as it is; clearing a range protects its pages, and no others.
fn log_manual<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 200, 1));
    let mut read = PageSet::new(&layout());
    vm.mmu.read_dirty(DATA, &mut read.regions_mut()[0]).expect("a logged slot");
    assert_eq!(read.count(), 200);
    let mut cleared = PageSet::new(&layout());
    let range = ClearRange { first: 0, pages: 128 };
    let into = &mut cleared.regions_mut()[0];
    vm.mmu.clear_dirty(DATA, range, &[u64::MAX; 2], into).expect("a range of the slot");
    assert_eq!(cleared.count(), 128);
    let before = guest.exits().faults;
    done(guest.store_pages(page(0), 200, 2));
    let faults = guest.exits().faults - before;
    assert_eq!(faults, 128, "what was cleared faults again");
    assert_eq!(vm.harvest(Protect::Pages).len(), 200);
    format!("{faults} of 200 pages protected")
}

/// What is stored while the log is off costs nothing and is in no harvest.
fn log_off_and_on<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 10, 1));
    vm.mmu.stop_log(DATA).expect("a logged slot");
    let before = guest.exits().faults;
    done(guest.store_pages(page(0), 10, 2));
    assert_eq!(guest.exits().faults, before, "mapped, and not logged");
    vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
    assert_eq!(vm.harvest(Protect::Pages), []);
    done(guest.store(page(3), 3));
    assert_eq!(vm.harvest(Protect::Pages), [3]);
    String::from("no fault while off, logged again after")
}
