//! Memslots that go, come and move while the guest has them mapped; memory that changes under it.

use crate::Check;
use crate::lab::{DATA, DATA_PAGES, Lab, data, done, page};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{Access, LogMode, Outcome, Protect, SlotSpec};
use vellum_pte::{Gfn, GfnRange};
use vm::{Processor, Ran, SPACE};

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![
        Check::new("slot-deleted", deleted),
        Check::new("slot-moved", moved),
        Check::new("memory-invalidated", invalidated),
        Check::new("pages-aged", aged),
    ]
}

/// No access reaches a slot that is gone; one that comes back finds its memory.
fn deleted<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 100, 1));
    vm.mmu.delete_slot(DATA).expect("a slot");
    assert_eq!(guest.store(page(1), 2), Ran::Stopped(Outcome::Mmio), "nobody's memory");
    assert_eq!(guest.load(page(2)), Ran::Stopped(Outcome::Mmio));
    assert_eq!(vm.read(page(1)), 1, "the store did not get through");
    vm.mmu.create_slot(SlotSpec { log: LogMode::On, ..data() }).expect("room for a slot");
    done(guest.go_on());
    assert_eq!(guest.load(page(1)), Ran::Done(1));
    done(guest.store(page(1), 3));
    assert_eq!(vm.harvest(Protect::Pages), [1]);
    String::from("accesses stopped, then mapped anew")
}

/// A slot that moves takes its memory and its log along.
fn moved<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store(page(4), 44));
    let there = GfnRange::new(Gfn::new(page(DATA_PAGES).gfn().get()), DATA_PAGES);
    let spec = SlotSpec { log: LogMode::On, range: there.expect("in range"), ..data() };
    vm.mmu.change_slot(spec).expect("room to move");
    assert_eq!(guest.store(page(4), 1), Ran::Stopped(Outcome::Mmio));
    assert_eq!(guest.load(page(DATA_PAGES + 4)), Ran::Done(44));
    done(guest.store(page(DATA_PAGES + 5), 55));
    assert_eq!(vm.read(page(5)), 55, "the memory is the same");
    assert_eq!(vm.harvest(Protect::Pages), [4, 5], "from before the move and after it");
    String::from("8 MiB moved by 8 MiB")
}

/// While memory changes, faults there are tried again; after it, the page is mapped anew.
fn invalidated<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 4, 1));
    let before = guest.exits().faults;
    let range = GfnRange::new(page(1).gfn(), 2).expect("in range");
    let changing = vm.mmu.invalidate(SPACE, range);
    let mut other = vm.mmu.vcpu().expect("memory for a vCPU");
    assert_eq!(other.fault(SPACE, page(2), Access::Write), Outcome::Retry);
    assert_eq!(
        other.fault(SPACE, page(4), Access::Write),
        Outcome::Mapped,
        "nothing changes there"
    );
    drop(changing);
    done(guest.store_pages(page(0), 4, 2));
    assert_eq!(guest.exits().faults - before, 2, "the two pages that changed");
    assert_eq!(vm.harvest(Protect::Pages), [0, 1, 2, 3, 4], "and nothing of the log is lost");
    String::from("2 of 4 pages faulted again")
}

/// Who was accessed since the last look is told, and seen again.
fn aged<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 8, 1));
    assert_eq!(vm.aged(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(vm.aged(), []);
    done(guest.load(page(3)));
    done(guest.store(page(6), 2));
    assert_eq!(vm.aged(), [3, 6]);
    String::from("8 pages, none, then 2")
}
