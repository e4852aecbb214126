//! Walks of the guest's own page tables: loads here, unless hardware sets flags in them.

use crate::cpu::{El2, Stage1};
use crate::stage2;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Check, Lab, Vm, done, page};
use vellum_mmu::{Config, DirtyBits, LogMode, Protect, TrackMode};
use vellum_pte::{Gpa, PAGE_SIZE};
use vm::{Guest, GuestMemory, PROGRAM_BYTES, Ran, SPACE};

pub(super) fn checks() -> Vec<Check<El2>> {
    let mut all = vec![Check::new("guest-walk-is-a-load", is_a_load)];
    if stage2::sets_dirty() {
        all.push(Check::new("guest-walk-sets-flags", sets_flags));
        all.push(Check::new("guest-walk-sets-flags-by-dirty-bits", by_dirty_bits));
        all.push(Check::new("guest-walk-of-a-tracked-page", of_a_tracked_page));
    }
    all
}

/// The guest's tables are pages of its data, one to one: a root (Arm's level 1), a table of level 2,
/// and one of level 3 for each the program and the data.
const ROOT: u64 = 16;
const MIDDLE: u64 = 17;
const PROGRAM: u64 = 18;
const LEAVES: u64 = 19;

/// Stage-1 descriptors (Arm ARM D8.3).
const TABLE: u64 = 3;
const PAGE: u64 = 3 | 3 << 8;
const ACCESSED: u64 = 1 << 10;
const READ_ONLY: u64 = 1 << 7;
const DIRTY_BY_HARDWARE: u64 = 1 << 51;

/// TCR_EL1: 39 bits, 4 KiB, write-back, inner shareable, 40 bits out, no second range.
const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32;
/// TCR_EL1.{HA, HD}.
const SETS_FLAGS: u64 = 3 << 39;
/// MAIR_EL1: attribute 0 is normal, write-back.
const MAIR: u64 = 0xff;

/// Pages of data that are mapped.
const DATA: u64 = 512;

/// A guest on tables of its own, the entries of its data with `flags`.
fn guest_on_tables(vm: &Vm<El2>, tcr: u64, flags: u64) -> Guest<'_, El2> {
    lay_out(vm.mmu.embedder().memory(), flags);
    let mut guest = vm.guest();
    let stage1 = Stage1::on(TCR | tcr, page(ROOT), MAIR);
    guest.processor().begin_with_own_tables(&stage1);
    done(guest.go_on());
    guest
}

fn lay_out(memory: GuestMemory, flags: u64) {
    let put = |table: u64, index: u64, descriptor: u64| {
        let place = Gpa::new(page(table).get() + index * 8);
        memory.write(place, &descriptor.to_le_bytes()).expect("inside the guest's memory");
    };
    put(ROOT, 0, page(MIDDLE).get() | TABLE);
    put(MIDDLE, 0, page(PROGRAM).get() | TABLE);
    put(MIDDLE, 1, page(LEAVES).get() | TABLE);
    for index in 0..PROGRAM_BYTES / PAGE_SIZE {
        put(PROGRAM, index, (index * PAGE_SIZE) | PAGE | ACCESSED | READ_ONLY);
    }
    for index in 0..DATA {
        put(LEAVES, index, page(index).get() | PAGE | flags);
    }
}

/// The entry of a page of data.
fn entry(vm: &Vm<El2>, index: u64) -> u64 {
    vm.read(Gpa::new(page(LEAVES).get() + index * 8))
}

/// Tables whose flags are all set are only read, and are in no harvest: on EPT with A and D bits and
/// on NPT they would be in each.
fn is_a_load(lab: &Lab<El2>) -> String {
    let vm = lab.logged();
    let mut guest = guest_on_tables(&vm, 0, ACCESSED);
    for round in 0..3 {
        done(guest.load(page(5)));
        assert_eq!(vm.harvest(Protect::Pages), [], "in round {round}");
        done(guest.store(page(6), round));
        assert_eq!(vm.harvest(Protect::Pages), [6], "in round {round}");
    }
    String::from("4 pages of tables in none of 6 harvests")
}

/// A load that has AF set, and a store that has the page made writable, write to the table.
fn sets_flags(lab: &Lab<El2>) -> String {
    flags_are_logged(&lab.logged())
}

/// The same with D bits of the second stage as the log: the walk of the one stage sets the flag of the
/// other.
fn by_dirty_bits(lab: &Lab<El2>) -> String {
    let config = Config { dirty_bits: DirtyBits::Scanned, ..lab.config() };
    flags_are_logged(&Vm::new(lab.host(), config, LogMode::On))
}

fn flags_are_logged(vm: &Vm<El2>) -> String {
    let mut guest = guest_on_tables(vm, SETS_FLAGS, READ_ONLY | DIRTY_BY_HARDWARE);
    assert_eq!(vm.harvest(Protect::Pages), [], "its program's entries have their flags");
    done(guest.load(page(5)));
    assert_eq!(entry(vm, 5) & (ACCESSED | READ_ONLY), ACCESSED | READ_ONLY, "AF is set");
    assert_eq!(vm.harvest(Protect::Pages), [LEAVES], "the walk has written");
    done(guest.load(page(5)));
    assert_eq!(vm.harvest(Protect::Pages), [], "the second one had nothing to write");
    done(guest.store(page(5), 1));
    assert_eq!(entry(vm, 5) & READ_ONLY, 0, "the page is writable");
    assert_eq!(vm.harvest(Protect::Nothing), [5, LEAVES]);
    vm.mmu.write_protect_all();
    done(guest.store(page(5), 2));
    assert_eq!(vm.harvest(Protect::Nothing), [5]);
    vm.mmu.write_protect_all();
    done(guest.store(page(6), 3));
    assert_eq!(vm.harvest(Protect::Nothing), [6, LEAVES], "both flags at once");
    format!("the table is in 3 of 6 harvests, {} faults", guest.exits().faults)
}

/// While the page of a table is tracked, a walk that has to write gets no further by itself: it is not
/// an instruction's store. One that only reads is not stopped.
fn of_a_tracked_page(lab: &Lab<El2>) -> String {
    let vm = lab.logged();
    let mut guest = guest_on_tables(&vm, SETS_FLAGS, READ_ONLY | DIRTY_BY_HARDWARE);
    done(guest.load(page(5)));
    vm.mmu.enable_tracking().expect("memory for counts");
    vm.mmu.track(SPACE, page(LEAVES).gfn(), TrackMode::Write).expect("a page of a slot");
    done(guest.load(page(5)));
    assert_eq!(guest.load(page(6)), Ran::NotDecoded, "AF is not set yet");
    assert_eq!(entry(&vm, 6) & ACCESSED, 0);
    vm.mmu.untrack(SPACE, page(LEAVES).gfn(), TrackMode::Write).expect("it is tracked");
    done(guest.go_on());
    String::from("stopped where a flag is to be set, and not where none is")
}
