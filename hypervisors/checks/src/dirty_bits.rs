//! The log by hardware's D bits, where there are any.

use crate::Check;
use crate::lab::{DATA_PAGES, Lab, Vm, data, done, page};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{Config, CreateVmError, DirtyBits, LogMode, Mmu, Protect, SlotSpec};
use vellum_pte::GfnRange;
use vm::{Processor, SPACE};

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    if P::features().accessed_dirty {
        vec![
            Check::new("dirty-bits-by-pages", by_pages),
            Check::new("dirty-bits-by-protecting-all", by_protecting_all),
            Check::new("dirty-bits-of-what-goes", of_what_goes),
        ]
    } else {
        vec![Check::new("dirty-bits-refused", refused)]
    }
}

fn vm<P: Processor>(lab: &Lab<P>) -> Vm<P> {
    Vm::new(lab.host(), scanned(lab), LogMode::On)
}

fn scanned<P: Processor>(lab: &Lab<P>) -> Config {
    Config { dirty_bits: DirtyBits::Scanned, ..lab.config() }
}

/// After its first fault a page is logged without any.
fn by_pages<P: Processor>(lab: &Lab<P>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 600, 1));
    assert_eq!(vm.harvest(Protect::Pages).len(), 600);
    let before = guest.exits().faults;
    for round in 0..5 {
        let stored: Vec<u64> = (0..60).map(|step| step * 10 + round).collect();
        for index in &stored {
            done(guest.store(page(*index), round + 2));
        }
        assert_eq!(vm.harvest(Protect::Pages), stored, "round {round}");
    }
    assert_eq!(guest.exits().faults, before, "hardware has logged them by itself");
    String::from("300 stores logged by 0 faults")
}

/// After a write-protect-all, one fault opens 2 MiB.
fn by_protecting_all<P: Processor>(lab: &Lab<P>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), DATA_PAGES, 1));
    assert_eq!(vm.harvest(Protect::Nothing).len() as u64, DATA_PAGES);
    vm.mmu.write_protect_all();
    let before = guest.exits().faults;
    done(guest.store_pages(page(0), 1024, 2));
    let faults = guest.exits().faults - before;
    assert!((1..=2 + 3).contains(&faults), "{faults} faults for two tables of leaves");
    assert_eq!(vm.harvest(Protect::Nothing), (0..1024).collect::<Vec<u64>>());
    vm.mmu.write_protect_all();
    done(guest.store(page(700), 3));
    let before = vm.shoot_downs();
    assert_eq!(vm.harvest(Protect::Nothing), [700]);
    assert_eq!(vm.shoot_downs() - before, 1, "no TLB may hold as dirty what was cleared");
    format!("{faults} faults for 1024 pages")
}

/// A leaf that goes leaves its D bit behind: because its memory changes, and because its slot moves.
fn of_what_goes<P: Processor>(lab: &Lab<P>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    done(guest.store_pages(page(0), 10, 1));
    assert_eq!(vm.harvest(Protect::Pages).len(), 10);
    let before = guest.exits().faults;
    done(guest.store(page(2), 2));
    assert_eq!(guest.exits().faults, before, "nothing but its D bit knows of the store");
    let all = GfnRange::new(page(0).gfn(), 10).expect("in range");
    drop(vm.mmu.invalidate(SPACE, all));
    assert_eq!(vm.harvest(Protect::Pages), [2]);
    done(guest.load(page(7)));
    done(guest.store(page(7), 3));
    let there = GfnRange::new(page(DATA_PAGES).gfn(), DATA_PAGES).expect("in range");
    let moved = SlotSpec { log: LogMode::On, range: there, ..data() };
    vm.mmu.change_slot(moved).expect("room to move");
    assert_eq!(vm.harvest(Protect::Pages), [7]);
    String::from("1 page of memory that changed, 1 of a slot that moved")
}

/// Hardware without D bits is told so, rather than believed.
fn refused<P: Processor>(lab: &Lab<P>) -> String {
    let made = Mmu::<P::Format, _>::new(lab.host(), scanned(lab)).map(drop);
    assert_eq!(made, Err(CreateVmError::DirtyWithoutAccessed));
    String::from("stores are logged by faults here")
}
