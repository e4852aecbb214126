//! Entries that are none: the processor says so, and the hypervisor hears it.

use super::tables::{damaged, entry};
use crate::processor::Vmx;
use ::checks::{Check, Lab, done, page};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_pte::Level;
use vm::{Exit, Ran, SPACE};

pub(crate) fn checks() -> Vec<Check<Vmx>> {
    vec![Check::new("misconfigured-entry", misconfigured_entry)]
}

/// Written and not read: no EPT entry may be (Intel SDM vol. 3C, 29.3.3.1).
const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;

/// At every level, an entry with writes alone is reported, with the address that led there; made
/// whole, it lets the same store pass.
fn misconfigured_entry(lab: &Lab<Vmx>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    done(guest.store(page(9), 1));
    let root = vm.mmu.root(SPACE).expect("a root");
    let levels = [Level::L1, Level::L2, Level::L3, Level::L4];
    for (level, value) in levels.into_iter().zip(2..) {
        let entry = entry(root, page(9), level);
        let ran = damaged(entry, |raw| raw & !READ | WRITE, || guest.store(page(9), value));
        // Above the last levels the guest's own tables and its program have the same entry.
        let Ran::Unexpected(Exit::Misconfigured(gpa)) = ran else {
            panic!("{level:?} was damaged, and the guest ended with {ran:?}");
        };
        assert!(level > Level::L2 || gpa == page(9), "{gpa} reported at {level:?}");
        done(guest.go_on());
        assert_eq!(vm.read(page(9)), value);
    }
    format!("{} levels", levels.len())
}
