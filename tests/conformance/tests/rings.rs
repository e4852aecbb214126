//! Dirty rings and page-modification logs, each law in the few operations that show it.

use vellum_conformance::hypervisor::{Backings, PageLogging, Rule};
use vellum_conformance::model::RingShape;
use vellum_conformance::scene::Op;
use vellum_conformance::script::{Setup, objection};
use vellum_mmu::{Again, Break, DirtyBits, LogMode, SlotAccess};
use vellum_pte::{Ept, Format, Npt, Stage2};

const PAGE: u64 = 500;
const SMALL: Rule = Rule { backings: Backings::Small, skew: 0 };
/// More pages than a ring has entries, and than a vCPU may log before it has to stop.
const TOO_MANY: u64 = 130;
const ENOUGH: u64 = 64;

fn create() -> Op {
    let (access, log) = (SlotAccess::ReadWrite, LogMode::On);
    Op::Create { id: 0, space: 0, first: 0, pages: 1001, access, log }
}

fn store(cpu: usize, page: u64) -> Op {
    Op::Store { cpu, page, word: 0, value: page + 1 }
}

fn flood(cpu: usize, pages: u64) -> Op {
    Op::Flood { cpu, first: PAGE, pages }
}

fn forge(cpu: usize, address: u64) -> Op {
    Op::Forge { cpu, address }
}

fn with_rings<F: Format>(dirty_bits: DirtyBits) -> Setup {
    let sound = Setup::new(F::ADDRESS_BITS, SMALL);
    Setup { dirty_bits, rings: Some(RingShape::least(dirty_bits)), ..sound }
}

fn by_page_logs() -> Setup {
    Setup { dirty_bits: DirtyBits::Logged, ..Setup::new(48, SMALL) }
}

fn is_right(ops: &[Op]) {
    for dirty_bits in [DirtyBits::Unused, DirtyBits::Scanned] {
        with_rings::<Ept>(dirty_bits).run::<Ept>(ops);
        with_rings::<Npt>(dirty_bits).run::<Npt>(ops);
        with_rings::<Stage2>(dirty_bits).run::<Stage2>(ops);
    }
    with_rings::<Ept>(DirtyBits::Logged).run::<Ept>(ops);
    by_page_logs().run::<Ept>(ops);
}

fn is_found_in<F: Format>(setup: Setup, ops: &[Op], expected: &str) {
    let said = objection(|| {
        setup.run::<F>(ops);
    });
    let said = said.unwrap_or_else(|| panic!("nobody objected in {}", F::NAME));
    assert!(said.contains(expected), "{}: {said}", F::NAME);
}

/// Whether the operations are right without the bug, and `expected` is said with it.
fn is_found(bug: Break, ops: &[Op], expected: &str) {
    is_right(ops);
    let broken = Some(bug);
    let unused = DirtyBits::Unused;
    is_found_in::<Ept>(Setup { broken, ..with_rings::<Ept>(unused) }, ops, expected);
    is_found_in::<Npt>(Setup { broken, ..with_rings::<Npt>(unused) }, ops, expected);
    is_found_in::<Stage2>(Setup { broken, ..with_rings::<Stage2>(unused) }, ops, expected);
}

#[test]
fn a_ring_that_is_overrun_is_found() {
    let ops = [create(), flood(0, TOO_MANY), Op::HarvestRings];
    is_found(Break::OverrunRing, &ops, "the rings name");
}

#[test]
fn a_reset_of_what_nobody_harvested_is_found() {
    for again in [Again::Pages, Again::Everything] {
        let ops = [create(), store(0, PAGE), Op::ResetRings(again), Op::HarvestRings];
        is_found(Break::ResetUnharvested, &ops, "what was harvested is taken back");
    }
}

#[test]
fn a_reset_without_its_shoot_down_is_found() {
    for again in [Again::Pages, Again::Everything] {
        let ops = [
            create(),
            store(0, PAGE),
            Op::HarvestRings,
            Op::ResetRings(again),
            store(0, PAGE),
            Op::HarvestRings,
        ];
        is_found(Break::SkipFlush, &ops, "the rings name");
    }
}

/// What the vCPU would have stored is not in memory, which is compared in the end.
#[test]
fn a_vcpu_with_a_full_ring_stays_out_until_somebody_has_reset_it() {
    is_right(&[
        create(),
        flood(0, ENOUGH),
        store(0, PAGE + ENOUGH),
        store(1, PAGE),
        Op::HarvestRings,
        store(0, PAGE + ENOUGH),
        Op::ResetRings(Again::Pages),
        store(0, PAGE + ENOUGH),
    ]);
}

#[test]
fn what_finds_no_room_is_in_the_bitmap_and_what_is_taken_there_faults_again() {
    let reset = Op::ResetRings(Again::Pages);
    let ops = [create(), flood(0, TOO_MANY), Op::TakePages(0), flood(0, TOO_MANY), reset];
    is_right(&[&ops[..], &[Op::HarvestRings, flood(0, TOO_MANY), Op::HarvestRings]].concat());
}

#[test]
fn the_ring_of_a_vcpu_that_has_gone_is_the_next_ones() {
    is_right(&[
        create(),
        store(0, PAGE),
        store(1, PAGE + 1),
        Op::Leave(1),
        Op::Leave(0),
        store(1, PAGE + 2),
        store(0, PAGE + 3),
        Op::HarvestRings,
        Op::ResetRings(Again::Everything),
        Op::Leave(1),
        store(1, PAGE + 1),
    ]);
}

/// They fill logs of 24 entries, by faults and by D bits alone; and what is logged when a vCPU goes
/// stays.
#[test]
fn a_page_log_is_handed_over_when_it_is_full_and_when_its_vcpu_goes() {
    let flood = Op::Flood { cpu: 0, first: PAGE, pages: 100 };
    let left = [Op::Leave(0), Op::Read(0)];
    let ops = [create(), flood.clone(), Op::TakePages(0), flood.clone(), Op::TakeAll, flood];
    is_right(&[&ops[..], &left].concat());
}

#[test]
fn a_hypervisor_that_hides_what_hardware_has_logged_is_found() {
    let ops = [create(), store(0, PAGE), Op::TakePages(0), store(0, PAGE), Op::Read(0)];
    is_right(&ops);
    let hidden = Setup { page_logging: PageLogging::Hidden, ..by_page_logs() };
    is_found_in::<Ept>(hidden, &ops, "lost a page");
}

/// Bits below the page count for nothing. A page of no slot is nobody's: one past a slot's end, a page
/// table of the hypervisor's, one past all that can be addressed.
#[test]
fn entries_of_a_page_log_are_masked_and_bounds_checked() {
    const TABLES: u64 = 1 << 35;
    let base = Setup::new(48, SMALL).ground.base;
    let nowhere = [base + 1001, base - 1, TABLES, TABLES + 16, 1 << 36, u64::MAX >> 12];
    let mut ops = vec![create(), store(0, PAGE), Op::TakePages(0)];
    ops.extend(nowhere.map(|page| forge(0, page << 12)));
    ops.extend([forge(0, u64::MAX), forge(1, (base + PAGE) << 12 | 0xabc), Op::Read(0)]);
    ops.extend([forge(0, (base + 1000) << 12 | 1), Op::Leave(0), Op::HarvestRings, Op::TakeAll]);
    is_right(&ops);
}
