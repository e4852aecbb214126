//! Sub-page permissions by tables: permitted stores retire in hardware.
//!
//! Where Bochs is not the manual, these checks keep to what both say:
//! - it caches a permit for the whole page, until the next entry: so each store here has an entry of
//!   its own;
//! - it looks at the sub-page of a store's first byte alone (Intel SDM vol. 3C, 29.3.4.1 has all of
//!   them): so no store here begins in a permitted part and ends in a denied one;
//! - it takes any vector, also with reserved bits set: so the damage is done further up.

use super::tables::{damaged, entry};
use crate::processor::Vmx;
use ::checks::{Check, DATA_PAGES, Draw, Lab, Vm, data, done, page};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use vellum_mmu::{Config, DirtyBits, LogMode, MemoryId, Outcome, Protect, SlotSpec};
use vellum_mmu::{SubPageForm, SubPageRange};
use vellum_pte::{Gfn, GfnRange, Gpa, Level, SUB_PAGE_SIZE, SlotId, SubPageMap};
use vm::{Guest, Ran, SPACE};

pub(crate) fn checks() -> Vec<Check<Vmx>> {
    let mut all = vec![
        Check::new("spp-each-sub-page", each_sub_page),
        Check::new("spp-across-two", across_two),
        Check::new("spp-miss-a-table", miss_a_table),
        Check::new("spp-misconfigured", misconfigured),
        Check::new("spp-opened-and-closed", opened_and_closed),
        Check::new("spp-vcpu-not-told", vcpu_not_told),
        Check::new("spp-slot-moved", slot_moved),
    ];
    all.extend(super::sub_page_rounds::checks());
    all
}

/// A VM whose sub-page permissions are by tables, logged as `dirty_bits` says.
pub(super) fn vm(lab: &Lab<Vmx>, dirty_bits: DirtyBits) -> Vm<Vmx> {
    Vm::new(lab.host(), Config { dirty_bits, ..lab.config() }, LogMode::On)
}

/// Its guest, told of the tables.
pub(super) fn activate(vm: &Vm<Vmx>) -> Guest<'_, Vmx> {
    let mut guest = vm.guest();
    assert_eq!(vm.mmu.activate_sub_pages(), Ok(SubPageForm::ByTables));
    guest.load_sub_pages();
    guest
}

pub(super) fn restrict(vm: &Vm<Vmx>, index: u64, map: SubPageMap) {
    let range = SubPageRange::new(SPACE, page(index).gfn());
    assert_eq!(vm.mmu.set_sub_pages(range, &[map]), Ok(1));
}

/// An address in a page.
pub(super) fn at(index: u64, offset: u64) -> Gpa {
    Gpa::new(page(index).get() + offset)
}

/// The store ended in the denial that `gpa` and `map` call for.
#[track_caller]
pub(super) fn denied(ran: Ran, gpa: Gpa, map: SubPageMap) {
    let Ran::Stopped(Outcome::Denied(denial)) = ran else {
        panic!("the store to {gpa} was to be denied by {map}, and ended with {ran:?}");
    };
    assert_eq!((denial.gpa, denial.map), (gpa, map));
}

/// The first and the last word of each part of a page, under maps of all kinds: hardware stores what
/// is permitted, and what is denied is as it was.
fn each_sub_page(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab, DirtyBits::Unused);
    let mut guest = activate(&vm);
    let mut draw = Draw::new(1);
    let maps = [0, 1, 1 << 31, 0x5555_5555, !1, draw.bits(), draw.bits(), u32::MAX];
    let mut permitted = 0;
    for (index, map) in (3..).zip(maps.map(SubPageMap::new)) {
        restrict(&vm, index, map);
        for part in 0..32 {
            for offset in [part * SUB_PAGE_SIZE, (part + 1) * SUB_PAGE_SIZE - 8] {
                permitted += u64::from(store_once(&vm, &mut guest, at(index, offset), map));
            }
        }
    }
    let exits = guest.exits();
    assert_eq!(exits.emulated, 0, "hardware has stored what was permitted");
    assert_eq!(exits.sub_page_events, 1, "one miss: they are in one 2 MiB");
    format!("{permitted} stores in hardware, {} denied", maps.len() as u64 * 64 - permitted)
}

/// Whether it was permitted.
fn store_once(vm: &Vm<Vmx>, guest: &mut Guest<'_, Vmx>, gpa: Gpa, map: SubPageMap) -> bool {
    let permitted = map.allows(gpa.offset());
    let ran = guest.store(gpa, gpa.get());
    if permitted {
        done(ran);
    } else {
        denied(ran, gpa, map);
    }
    assert_eq!(vm.read(gpa), if permitted { gpa.get() } else { 0 });
    permitted
}

/// A store over the border of two parts passes where both permit it, and is denied where the first
/// does not: nothing of it is written.
fn across_two(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab, DirtyBits::Unused);
    let mut guest = activate(&vm);
    let map = SubPageMap::new(!(1 << 4));
    restrict(&vm, 3, map);
    let over = |part: u64| at(3, part * SUB_PAGE_SIZE - 4);
    done(guest.store(over(3), 7));
    assert_eq!(vm.read(over(3)), 7);
    denied(guest.store(over(5), 7), over(5), map);
    assert_eq!(vm.read(over(5)), 0);
    String::from("both permitted, and the first denied")
}

/// The first permitted store below each entry of the sub-page tables exits as a miss, once; after a
/// write-protect-all, once more.
fn miss_a_table(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab, DirtyBits::Unused);
    let mut guest = activate(&vm);
    let map = SubPageMap::new(!2);
    let pages = [1, 2, 511, 512, 1023, 1024, 2047];
    for index in pages {
        restrict(&vm, index, map);
    }
    let mut counts = Vec::new();
    for round in 0..3 {
        let before = guest.exits();
        for index in pages.into_iter().chain(pages) {
            done(guest.store(page(index), round));
        }
        let after = guest.exits();
        counts.push(after.sub_page_events - before.sub_page_events);
        assert_eq!(vm.harvest(Protect::Nothing), pages);
        vm.mmu.write_protect_all();
    }
    assert_eq!(counts, [4, 4, 4], "one for each 2 MiB");
    format!("{counts:?} misses for {} pages in 4 tables", pages.len())
}

/// Bits 11:1 of an entry above the vectors are reserved.
const RESERVED: u64 = 1 << 1;

/// Damage above the vectors is reported as such, at each level, and the library says that the VM
/// cannot go on. Made whole, the same store passes.
fn misconfigured(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab, DirtyBits::Unused);
    let mut guest = activate(&vm);
    restrict(&vm, 3, SubPageMap::new(1));
    done(guest.store(page(3), 1));
    let root = vm.mmu.sub_page_root(SPACE).expect("by tables");
    let levels = [Level::L2, Level::L3, Level::L4];
    for (level, value) in levels.into_iter().zip(2..) {
        let entry = entry(root, page(3), level);
        let ran = damaged(entry, |raw| raw | RESERVED, || guest.store(page(3), value));
        assert_eq!(ran, Ran::Stopped(Outcome::Misconfigured), "{level:?}");
        done(guest.go_on());
        assert_eq!(vm.read(page(3)), value);
    }
    format!("{} levels", levels.len())
}

/// A map that changes while its vector is linked: what was denied is stored by hardware, and what was
/// permitted is denied, without another miss.
fn opened_and_closed(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab, DirtyBits::Unused);
    let mut guest = activate(&vm);
    let (first, second) = (SubPageMap::new(1 << 6), SubPageMap::new(1 << 7));
    let (sixth, seventh) = (at(3, 6 * SUB_PAGE_SIZE), at(3, 7 * SUB_PAGE_SIZE));
    restrict(&vm, 3, first);
    done(guest.store(sixth, 1));
    denied(guest.store(seventh, 2), seventh, first);
    restrict(&vm, 3, second);
    done(guest.go_on());
    assert_eq!(vm.read(seventh), 2, "the store that was denied");
    denied(guest.store(sixth, 3), sixth, second);
    restrict(&vm, 3, SubPageMap::ALL);
    done(guest.go_on());
    assert_eq!(vm.read(sixth), 3);
    let exits = guest.exits();
    assert_eq!((exits.emulated, exits.sub_page_events), (0, 1));
    String::from("two maps, one miss, no store emulated")
}

/// A vCPU that has not been told of the tables ignores them: what is permitted is emulated for it,
/// beside another for which hardware does it. What is denied is denied to both.
fn vcpu_not_told(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab, DirtyBits::Unused);
    let mut late = vm.guest();
    let mut told = activate(&vm);
    let map = SubPageMap::new(!1);
    restrict(&vm, 3, map);
    for round in 1..4 {
        done(told.store(at(3, 256), round));
        done(late.store(at(3, 512), round));
        denied(told.store(at(3, 0), round), at(3, 0), map);
        denied(late.store(at(3, 0), round), at(3, 0), map);
        assert_eq!([256, 512, 0].map(|offset| vm.read(at(3, offset))), [round, round, 0]);
        assert_eq!(vm.harvest(Protect::Pages), [3]);
    }
    assert_eq!((told.exits().emulated, late.exits().emulated), (0, 3));
    late.load_sub_pages();
    done(late.store(at(3, 512), 9));
    assert_eq!(late.exits().emulated, 3);
    String::from("3 stores emulated, then none")
}

/// A slot that moves takes its maps along; what comes in its place has none, whatever the tables said
/// of its pages before.
fn slot_moved(lab: &Lab<Vmx>) -> String {
    let vm = vm(lab, DirtyBits::Unused);
    let mut guest = activate(&vm);
    let map = SubPageMap::new(!1);
    restrict(&vm, 3, map);
    done(guest.store(at(3, 128), 1));
    let there = GfnRange::new(Gfn::new(page(DATA_PAGES).gfn().get()), DATA_PAGES);
    let moved = SlotSpec { range: there.expect("in range"), log: LogMode::On, ..data() };
    vm.mmu.change_slot(moved).expect("room to move");
    let new = DATA_PAGES + 3;
    done(guest.store(at(new, 256), 2));
    denied(guest.store(at(new, 0), 3), at(new, 0), map);
    let (id, memory) = (SlotId(2), MemoryId(page(DATA_PAGES).get()));
    vm.mmu.create_slot(SlotSpec { id, memory, ..data() }).expect("room where it was");
    done(guest.store(at(3, 0), 4));
    assert_eq!(vm.read(at(new, 0)), 4, "the other slot's memory");
    assert_eq!([0, 128, 256].map(|offset| vm.read(at(3, offset))), [0, 1, 2]);
    assert_eq!(guest.exits().emulated, 0);
    String::from("denied where it is, stored where it was")
}
