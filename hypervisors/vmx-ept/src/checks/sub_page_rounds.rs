//! Sub-pages, write-protect-all and the log together: each harvest is exactly what was stored.

use super::sub_pages::{activate, at, denied, restrict, vm};
use crate::processor::Vmx;
use ::checks::{Check, DATA_PAGES, Draw, Lab, Vm, done};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{DirtyBits, Protect};
use vellum_pte::{PAGE_SIZE, SubPageMap};
use vm::Guest;

pub(crate) fn checks() -> Vec<Check<Vmx>> {
    vec![
        Check::new("spp-rounds", |lab| rounds(lab, DirtyBits::Unused)),
        Check::new("spp-rounds-by-dirty-bits", |lab| rounds(lab, DirtyBits::Scanned)),
        Check::new("spp-rounds-by-page-log", |lab| rounds(lab, DirtyBits::Logged)),
    ]
}

const ROUNDS: u64 = 24;
const STORES: u64 = 120;

/// A guest, and what a program that knows nothing of tables says of it.
struct Scene<'m> {
    vm: &'m Vm<Vmx>,
    guest: Guest<'m, Vmx>,
    draw: Draw,
    maps: BTreeMap<u64, SubPageMap>,
    stored: BTreeSet<u64>,
    denials: u64,
}

/// Restricted and free pages mixed, over all of the data; maps change now and then; a round ends with
/// single pages protected, with write-protect-all, or with both.
fn rounds(lab: &Lab<Vmx>, dirty_bits: DirtyBits) -> String {
    let vm = vm(lab, dirty_bits);
    let guest = activate(&vm);
    let mut scene = Scene {
        vm: &vm,
        guest,
        draw: Draw::new(7),
        maps: BTreeMap::new(),
        stored: BTreeSet::new(),
        denials: 0,
    };
    for round in 0..ROUNDS {
        (0..8).for_each(|_| scene.change_a_map());
        (0..STORES).for_each(|_| scene.store());
        scene.end_of_round(round);
    }
    let exits = scene.guest.exits();
    assert_eq!(exits.emulated, 0, "hardware has made every permitted store");
    assert!(scene.denials > ROUNDS && exits.sub_page_events > ROUNDS / 3);
    format!(
        "{ROUNDS} harvests of {STORES} stores, {} denied; {} faults, {} misses",
        scene.denials, exits.faults, exits.sub_page_events
    )
}

impl Scene<'_> {
    /// A third of them open the page again.
    fn change_a_map(&mut self) {
        let index = self.page();
        let map = match self.draw.below(3) {
            0 => SubPageMap::ALL,
            _ => SubPageMap::new(self.draw.bits()),
        };
        restrict(self.vm, index, map);
        self.maps.insert(index, map);
    }

    /// To a page with a map or to one nearby, anywhere in it.
    fn store(&mut self) {
        let known = self.draw.below(self.maps.len() as u64);
        let restricted = self.maps.keys().nth(usize::try_from(known).unwrap_or(0)).copied();
        let index = match self.draw.below(3) {
            0 => self.page(),
            _ => restricted.unwrap_or(0),
        };
        let gpa = at(index, self.draw.below(PAGE_SIZE / 8) * 8);
        let map = self.maps.get(&index).copied().unwrap_or(SubPageMap::ALL);
        let (before, value) = (self.vm.read(gpa), self.draw.next());
        let ran = self.guest.store(gpa, value);
        if map.allows(gpa.offset()) {
            done(ran);
            assert_eq!(self.vm.read(gpa), value);
            self.stored.insert(index);
        } else {
            denied(ran, gpa, map);
            assert_eq!(self.vm.read(gpa), before, "nothing was written");
            self.denials += 1;
        }
    }

    /// Few pages of each table, so that rounds meet the same ones.
    fn page(&mut self) -> u64 {
        let table = self.draw.below(DATA_PAGES / 512);
        table * 512 + self.draw.below(40)
    }

    fn end_of_round(&mut self, round: u64) {
        let protect = if round % 3 == 1 { Protect::Nothing } else { Protect::Pages };
        let harvest = self.vm.harvest(protect);
        if !round.is_multiple_of(3) {
            self.vm.mmu.write_protect_all();
        }
        let stored = core::mem::take(&mut self.stored);
        assert_eq!(harvest, Vec::from_iter(stored), "in round {round}");
    }
}
