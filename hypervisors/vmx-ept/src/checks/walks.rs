//! Walks of the guest's own page tables where the second stage has no A and D bits: a walk reads. It
//! writes where it has A or D of the guest's to set, but that cannot be shown here: Bochs sets them
//! without asking the second stage, where the manual has an EPT violation (Intel SDM vol. 3C,
//! 29.3.3.2). The guest's tables here have all of them set.

use crate::processor::Vmx;
use ::checks::{Check, Lab, done, page};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{Protect, TrackMode};
use vm::{Ran, SPACE};
use x86_guest::walks::OwnTables;

pub(crate) fn checks() -> Vec<Check<Vmx>> {
    vec![Check::new("guest-walk-is-a-load", is_a_load)]
}

/// Where the guest's page tables begin in its data.
const TABLES: u64 = 16;

/// The pages of the guest's tables are in no harvest, and a guest whose tables may not be written
/// goes on.
fn is_a_load(lab: &Lab<Vmx>) -> String {
    let vm = lab.logged();
    x86_guest::lay_out_tables(vm.mmu.embedder().memory(), page(TABLES));
    let mut guest = vm.guest();
    guest.processor().set_page_tables(page(TABLES));
    assert_eq!(guest.load(page(5)), Ran::Done(0));
    done(guest.store(page(5), 1));
    assert_eq!(vm.harvest(Protect::Pages), [5]);
    vm.mmu.enable_tracking().expect("memory for counts");
    for walked in TABLES..TABLES + 3 {
        vm.mmu.track(SPACE, page(walked).gfn(), TrackMode::Write).expect("a page of a slot");
    }
    done(guest.store(page(5), 2));
    assert_eq!(guest.load(page(5)), Ran::Done(2));
    assert_eq!(vm.harvest(Protect::Pages), [5]);
    assert_eq!(guest.exits().emulated, 0);
    String::from("tracked tables are walked, and are in no harvest")
}
