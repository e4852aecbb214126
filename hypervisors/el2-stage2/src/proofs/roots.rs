//! Roots side by side: the processor begins its walks where the library says.

use super::far::{FAR_PAGES, Far};
use crate::cpu::El2;
use crate::stage2;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, Lab, done, page};
use vellum_mmu::Protect;

pub(super) fn checks() -> Vec<Check<El2>> {
    vec![Check::new("roots-of-every-shape", every_shape)]
}

/// Each shape of root: at Arm's level 2 with four and with sixteen tables, at level 1 with one, two and
/// sixteen, at level 0.
const BITS: [u32; 6] = [32, 34, 39, 40, 43, 44];

/// Logs are right at both ends of memory, which are under different root tables where there are
/// several, and each root table is settled by a write-protect-all.
fn every_shape(lab: &Lab<El2>) -> String {
    let bits: Vec<u32> = BITS.into_iter().filter(|bits| *bits <= stage2::most_bits()).collect();
    assert!(bits.contains(&39) && bits.contains(&40), "one root and two, on every processor");
    let shapes: Vec<String> = bits.iter().map(|bits| both_ends(lab, *bits)).collect();
    shapes.join(", ")
}

fn both_ends(lab: &Lab<El2>, bits: u32) -> String {
    let far = Far::logged(lab, bits);
    let mut guest = far.vm.guest();
    let last = FAR_PAGES - 1;
    for round in 0..3 {
        done(guest.store(page(round), round + 1));
        done(guest.store(far.page(last), round + 1));
        done(guest.store(far.page(round), round + 1));
        assert_eq!(far.vm.harvest(Protect::Nothing), [round], "{bits} bits, near");
        assert_eq!(far.harvest(Protect::Nothing), [round, last], "{bits} bits, far");
        far.vm.mmu.write_protect_all();
        assert_eq!(guest.load(far.page(last)), vm::Ran::Done(round + 1));
    }
    let shape = far.vm.mmu.root_shape();
    format!("{bits} bits: {} at level {}", shape.tables, 4 - shape.level.get())
}
