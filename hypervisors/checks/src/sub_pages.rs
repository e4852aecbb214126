//! Permissions for 128-byte parts of pages, by the processor's tables or by emulation.

use crate::Check;
use crate::lab::{Lab, Vm, done, page};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{Outcome, Protect, SubPageForm, SubPageRange};
use vellum_pte::{Gpa, SubPageMap};
use vm::{Guest, Processor, Ran, SPACE};

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![
        Check::new("sub-pages-permit-and-deny", permit_and_deny),
        Check::new("sub-pages-opened-after-denial", opened_after_denial),
        Check::new("sub-pages-and-the-log", with_the_log),
        Check::new("sub-pages-and-protect-all", with_protect_all),
    ]
}

/// Every part but the third, 128 bytes from offset 256 on.
const MAP: SubPageMap = SubPageMap::new(!(1 << 2));

fn permitted(index: u64) -> Gpa {
    page(index)
}

fn denied(index: u64) -> Gpa {
    Gpa::new(page(index).get() + 256)
}

/// A VM whose sub-page permissions are active, and its guest.
fn activate<'m, P: Processor>(vm: &'m Vm<P>) -> (Guest<'m, P>, SubPageForm) {
    let mut guest = vm.guest();
    let form = vm.mmu.activate_sub_pages().expect("memory for sub-page tables");
    guest.load_sub_pages();
    (guest, form)
}

fn restrict<P: Processor>(vm: &Vm<P>, index: u64, map: SubPageMap) {
    let range = SubPageRange::new(SPACE, page(index).gfn());
    assert_eq!(vm.mmu.set_sub_pages(range, &[map]), Ok(1));
}

#[track_caller]
fn refused(ran: Ran, at: Gpa) {
    match ran {
        Ran::Stopped(Outcome::Denied(denial)) => {
            assert_eq!((denial.gpa.gfn(), denial.map), (at.gfn(), MAP));
        }
        other => panic!("the store was to be denied, and ended with {other:?}"),
    }
}

/// What the map permits is written, what it denies is not, and other pages know nothing of it.
fn permit_and_deny<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let (mut guest, form) = activate(&vm);
    restrict(&vm, 3, MAP);
    done(guest.store(permitted(3), 1));
    refused(guest.store(denied(3), 2), denied(3));
    done(guest.store(denied(2), 3));
    assert_eq!(vm.read(permitted(3)), 1);
    assert_eq!(vm.read(denied(3)), 0, "nothing was written");
    assert_eq!(vm.read(denied(2)), 3);
    let emulated = guest.exits().emulated;
    assert_eq!(emulated, u64::from(form == SubPageForm::ByEmulation), "{form:?}");
    format!("{form:?}: {emulated} store emulated")
}

/// A guest that was stopped goes on when its store is permitted.
fn opened_after_denial<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let (mut guest, _) = activate(&vm);
    restrict(&vm, 3, MAP);
    refused(guest.store(denied(3), 7), denied(3));
    restrict(&vm, 3, SubPageMap::ALL);
    done(guest.go_on());
    assert_eq!(vm.read(denied(3)), 7);
    String::from("the store was made at the second try")
}

/// A permitted store is logged once a round; a denied one is not.
fn with_the_log<P: Processor>(lab: &Lab<P>) -> String {
    rounds(lab, |vm| vm.harvest(Protect::Pages))
}

/// The same when the rounds end with write-protect-all.
fn with_protect_all<P: Processor>(lab: &Lab<P>) -> String {
    rounds(lab, |vm| {
        let pages = vm.harvest(Protect::Nothing);
        vm.mmu.write_protect_all();
        pages
    })
}

/// Restricted pages among free ones, some of each stored to in each round.
fn rounds<P: Processor>(lab: &Lab<P>, harvest: impl Fn(&Vm<P>) -> Vec<u64>) -> String {
    let vm = lab.logged();
    let (mut guest, form) = activate(&vm);
    for index in (0..1024).step_by(2) {
        restrict(&vm, index, MAP);
    }
    for round in 0..6 {
        let stored: Vec<u64> = (0..40).map(|step| step * 25 + round).collect();
        for index in &stored {
            done(guest.store(permitted(*index), round));
        }
        let next = (stored[39] + 1).next_multiple_of(2);
        refused(guest.store(denied(next), round), denied(next));
        assert_eq!(harvest(&vm), stored, "round {round}");
    }
    let exits = guest.exits();
    format!("{form:?}: {} emulated, {} sub-page exits", exits.emulated, exits.sub_page_events)
}
