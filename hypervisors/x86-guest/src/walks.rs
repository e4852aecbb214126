//! Walks of the guest's own page tables, which count as writes where the processor sets A and D bits
//! in the second stage: on NPT always (AMD APM vol. 2, 15.25.6), on EPT where it was told to (Intel
//! SDM vol. 3C, 29.3.3.2).

use crate::lay_out_tables;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, Lab, Vm, done, page};
use vellum_mmu::{Config, DirtyBits, LogMode, Outcome, Protect, SubPageRange, TrackMode};
use vellum_pte::{Gpa, SubPageMap};
use vm::{Guest, Processor, Ran, SPACE};

/// A processor whose guest can be given other page tables of its own.
pub trait OwnTables: Processor {
    /// Has the guest walk the tables at `root` from now on.
    fn set_page_tables(&mut self, root: Gpa);
}

/// The checks of processors on which each walk is a write.
#[must_use]
pub fn checks<P: OwnTables>() -> Vec<Check<P>> {
    vec![
        Check::new("guest-walk-is-a-write", is_a_write),
        Check::new("guest-walk-sets-dirty-bits", sets_dirty_bits),
        Check::new("guest-walk-of-a-tracked-page", of_a_tracked_page),
        Check::new("guest-walk-of-a-restricted-page", of_a_restricted_page),
    ]
}

/// Where the guest's page tables begin in its data.
const TABLES: u64 = 16;
/// The pages that the walk to any address below 1 GiB passes: one at each level.
const WALKED: [u64; 3] = [TABLES, TABLES + 1, TABLES + 2];

/// A guest whose page tables are in its data.
fn guest_with_logged_tables<P: OwnTables>(vm: &Vm<P>) -> Guest<'_, P> {
    lay_out_tables(vm.mmu.embedder().memory(), page(TABLES));
    let mut guest = vm.guest();
    guest.processor().set_page_tables(page(TABLES));
    guest
}

/// A guest that only loads has written its page tables all the same, each time anew.
fn is_a_write<P: OwnTables>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = guest_with_logged_tables(&vm);
    for round in 0..3 {
        assert_eq!(guest.load(page(5)), Ran::Done(0));
        assert_eq!(vm.harvest(Protect::Pages), WALKED, "in round {round}");
    }
    done(guest.store(page(5), 1));
    assert_eq!(vm.harvest(Protect::Pages), [5, 16, 17, 18]);
    format!("{} pages of tables in each of 3 rounds", WALKED.len())
}

/// Where D bits are the log, a walk sets them, and costs no fault after the first.
fn sets_dirty_bits<P: OwnTables>(lab: &Lab<P>) -> String {
    let config = Config { dirty_bits: DirtyBits::Scanned, ..lab.config() };
    let vm = Vm::new(lab.host(), config, LogMode::On);
    let mut guest = guest_with_logged_tables(&vm);
    done(guest.load(page(5)));
    assert_eq!(vm.harvest(Protect::Pages), WALKED);
    let before = guest.exits().faults;
    for round in 0..3 {
        done(guest.load(page(5)));
        assert_eq!(vm.harvest(Protect::Pages), WALKED, "in round {round}");
    }
    let faults = guest.exits().faults - before;
    assert_eq!(faults, 0, "hardware logs by itself");
    format!("{faults} faults in 3 rounds")
}

/// While a page of its tables is tracked, the guest gets no further by itself: what is emulated is
/// the instruction that walked, and not a store to that page.
fn of_a_tracked_page<P: OwnTables>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = guest_with_logged_tables(&vm);
    done(guest.store(page(5), 1));
    vm.mmu.enable_tracking().expect("memory for counts");
    let gfn = page(TABLES + 2).gfn();
    vm.mmu.track(SPACE, gfn, TrackMode::Write).expect("a page of a slot");
    assert_eq!(guest.load(page(5)), Ran::NotDecoded, "its first instruction is no store");
    vm.mmu.untrack(SPACE, gfn, TrackMode::Write).expect("it is tracked");
    assert_eq!(guest.go_on(), Ran::Done(1));
    format!("stopped at the first instruction, and {} emulated", guest.exits().emulated)
}

/// A walk may read no entry that may not be written.
fn of_a_restricted_page<P: OwnTables>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = guest_with_logged_tables(&vm);
    done(guest.store(page(5), 1));
    vm.mmu.activate_sub_pages().expect("memory for sub-pages");
    guest.load_sub_pages();
    let range = SubPageRange::new(SPACE, page(TABLES).gfn());
    let first_denied = SubPageMap::new(!1);
    assert_eq!(vm.mmu.set_sub_pages(range, &[first_denied]), Ok(1));
    match guest.load(page(5)) {
        Ran::Stopped(Outcome::Denied(denial)) => {
            assert_eq!((denial.gpa, denial.map), (page(TABLES), first_denied));
        }
        other => panic!("the walk was to be denied, and ended with {other:?}"),
    }
    assert_eq!(vm.mmu.set_sub_pages(range, &[SubPageMap::ALL]), Ok(1));
    assert_eq!(guest.go_on(), Ran::Done(1));
    String::from("denied at the root's first entry, and open again")
}
