//! Dirty rings, on a vCPU that stops when nobody listens.

use crate::Check;
use crate::lab::{DATA, Lab, Vm, done, page};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{Again, Config, LogMode, RingSize};
use vm::{Processor, Ran};

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![Check::new("ring-in-order", in_order), Check::new("ring-full", full)]
}

fn vm<P: Processor>(lab: &Lab<P>) -> Vm<P> {
    let ring = RingSize::new(128, 0).expect("a size above the reserve");
    Vm::new(lab.host(), Config { ring: Some(ring), ..lab.config() }, LogMode::On)
}

fn harvest<P: Processor>(vm: &Vm<P>) -> Vec<u64> {
    let mut pages = Vec::new();
    vm.mmu.harvest_rings(|entry| {
        assert_eq!(entry.slot, DATA);
        pages.push(entry.page);
    });
    pages
}

/// Pages come in the order of their first stores, and again after a reset of either kind.
fn in_order<P: Processor>(lab: &Lab<P>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    for again in [Again::Pages, Again::Everything, Again::Pages] {
        for index in [9, 2, 700, 2, 5, 9] {
            done(guest.store(page(index), 1));
        }
        assert_eq!(harvest(&vm), [9, 2, 700, 5]);
        assert_eq!(vm.mmu.reset_rings(again), 4);
    }
    String::from("3 rounds of 4 pages")
}

/// A ring that is full keeps its vCPU out until somebody has harvested and reset.
fn full<P: Processor>(lab: &Lab<P>) -> String {
    let vm = vm(lab);
    let mut guest = vm.guest();
    let mut pages = Vec::new();
    let mut stops = 0;
    let mut ran = guest.store_pages(page(0), 1000, 1);
    while ran == Ran::RingFull {
        stops += 1;
        pages.extend(harvest(&vm));
        vm.mmu.reset_rings(Again::Pages);
        ran = guest.go_on();
    }
    done(ran);
    pages.extend(harvest(&vm));
    let entries = pages.len() as u64;
    pages.dedup();
    assert_eq!(pages, (0..1000).collect::<Vec<u64>>());
    assert!(entries <= 1000 + stops, "a store that a full ring keeps waiting is in it twice");
    assert!(stops >= 1000 / 128, "{stops} stops of a ring with 128 entries");
    format!("1000 pages through 128 entries, {stops} stops")
}
