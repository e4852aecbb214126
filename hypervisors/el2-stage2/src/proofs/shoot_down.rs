//! This processor keeps translations until it is told to forget them: a hypervisor without
//! shoot-downs loses stores here, and is seen to.

use crate::cpu::El2;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, Lab, Vm, done, page};
use vellum_mmu::{LogMode, Protect};
use vm::ShootDowns;

const PAGES: u64 = 16;

pub(super) fn checks() -> Vec<Check<El2>> {
    vec![
        Check::new("shoot-down-skipped-by-pages", by_pages),
        Check::new("shoot-down-skipped-protecting-all", by_protecting_all),
    ]
}

fn by_pages(lab: &Lab<El2>) -> String {
    compare(lab, |vm| vm.harvest(Protect::Pages))
}

/// Parking an entry is of no use either while what is below it is cached.
fn by_protecting_all(lab: &Lab<El2>) -> String {
    compare(lab, |vm| {
        let pages = vm.harvest(Protect::Nothing);
        vm.mmu.write_protect_all();
        pages
    })
}

type Harvest = fn(&Vm<El2>) -> Vec<u64>;

fn compare(lab: &Lab<El2>, harvest: Harvest) -> String {
    let kept = lost(lab, ShootDowns::Made, harvest);
    assert_eq!(kept, [], "with shoot-downs no store is lost");
    let lost = lost(lab, ShootDowns::Skipped, harvest);
    assert!(!lost.is_empty(), "a TLB that forgets by itself proves no shoot-down");
    format!("none of {PAGES} stores lost, and without shoot-downs {}", lost.len())
}

/// The pages with a store after a harvest that the next harvest does not have.
fn lost(lab: &Lab<El2>, policy: ShootDowns, harvest: Harvest) -> Vec<u64> {
    let vm = Vm::new(lab.host().with_shoot_downs(policy), lab.config(), LogMode::On);
    let mut guest = vm.guest();
    // The second time there is no fault, which would have made this CPU forget the others' pages.
    done(guest.store_pages(page(0), PAGES, 1));
    done(guest.store_pages(page(0), PAGES, 1));
    assert_eq!(harvest(&vm), (0..PAGES).collect::<Vec<_>>());
    done(guest.store_pages(page(0), PAGES, 2));
    let logged = harvest(&vm);
    let stored = (0..PAGES).filter(|index| vm.read(page(*index)) == 2);
    stored.filter(|index| !logged.contains(index)).collect()
}
