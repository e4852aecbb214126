//! What a load costs under a write-protect-all: closed table entries are parked here, so the first
//! load through them faults.

use super::far::Far;
use crate::cpu::El2;
use crate::stage2;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, Lab, done, page};
use vellum_mmu::Protect;
use vellum_pte::Level;

pub(super) fn checks() -> Vec<Check<El2>> {
    vec![Check::new("reads-link-a-parked-path", link_a_parked_path)]
}

/// One fault a path, however many of its entries are parked: it links them all. Nothing is dirty
/// after it, and the next store is noticed.
fn link_a_parked_path(lab: &Lab<El2>) -> String {
    let huge = cost(&Far::unlogged(lab, 39, Level::L2));
    assert_eq!(huge, [1, 0, 0], "two huge leaves in one table");
    let small = logged_cost(lab, 39);
    assert_eq!(small, [1, 0, 1], "two tables of leaves");
    let high = logged_cost(lab, 44.min(stage2::most_bits()));
    assert_eq!(high, [1, 0, 1], "the same under a root at level 0");
    format!("faults of three loads under 1, 2 and 3 parked entries: {huge:?}, {small:?}, {high:?}")
}

fn logged_cost(lab: &Lab<El2>, bits: u32) -> [u64; 3] {
    let far = Far::logged(lab, bits);
    let counted = cost(&far);
    assert_eq!(far.harvest(Protect::Nothing), STORED, "from before, and nothing by loads");
    done(far.vm.guest().store(far.page(1), 2));
    assert_eq!(far.harvest(Protect::Nothing), [1], "the store after them is noticed");
    counted
}

/// A page, its neighbour, and one 2 MiB further on.
const STORED: [u64; 3] = [0, 1, 512];

/// The faults of loads from pages that may be stored to until all is protected: a path that a load linked
/// as it was would let stores by.
fn cost(far: &Far) -> [u64; 3] {
    let mut guest = far.vm.guest();
    let pages = STORED.map(|index| far.page(index));
    pages.iter().for_each(|page| done(guest.store(*page, 1)));
    far.vm.mmu.write_protect_all();
    // The program's own path, so that its faults are not counted.
    done(guest.load(page(0)));
    pages.map(|page| {
        let before = guest.exits().faults;
        done(guest.load(page));
        guest.exits().faults - before
    })
}
