//! Deliberate bugs, each with the few operations that show it. What one thread cannot show, loom
//! does (`crates/mmu/tests/loom/`).

use std::sync::mpsc;
use vellum_conformance::hypervisor::{
    Backings, Change, Cpu, Home, Hypervisor, Plenty, Rule, VirtualCpu,
};
use vellum_conformance::scene::Op;
use vellum_conformance::script::{Setup, objection};
use vellum_mmu::{Break, Config, Initial, LogMode, Mmu, SlotAccess, SlotSpec};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Npt, SlotId, Stage2};

const PAGE: u64 = 500;
const OTHER: u64 = 600;

const SMALL: Rule = Rule { backings: Backings::Small, skew: 0 };
const LARGE: Rule = Rule { backings: Backings::Large, skew: 0 };

fn create(id: u16, space: u16, log: LogMode) -> Op {
    Op::Create { id, space, first: 0, pages: 1001, access: SlotAccess::ReadWrite, log }
}

fn store(cpu: usize, page: u64) -> Op {
    Op::Store { cpu, page, word: 0, value: page + 1 }
}

fn load(cpu: usize, page: u64) -> Op {
    Op::Load { cpu, page, word: 0 }
}

/// Whether the operations are right without the bug, and `said` is said with it.
fn is_found<F: Format>(bug: Break, rule: Rule, ops: &[Op], expected: &str) {
    let sound = Setup::new(F::ADDRESS_BITS, rule);
    sound.run::<F>(ops);
    let said = objection(|| {
        Setup { broken: Some(bug), ..sound }.run::<F>(ops);
    });
    let said = said.unwrap_or_else(|| panic!("nobody objected to {bug:?} in {}", F::NAME));
    assert!(said.contains(expected), "{bug:?} in {}: {said}", F::NAME);
}

fn is_found_everywhere(bug: Break, rule: Rule, ops: &[Op], expected: &str) {
    is_found::<Ept>(bug, rule, ops, expected);
    is_found::<Npt>(bug, rule, ops, expected);
    is_found::<Stage2>(bug, rule, ops, expected);
}

#[test]
fn a_harvest_without_its_shoot_down_is_found() {
    let ops = [create(0, 0, LogMode::On), store(0, PAGE), Op::TakePages(0), store(0, PAGE)];
    is_found_everywhere(Break::SkipFlush, SMALL, &ops, "lost a page");
}

#[test]
fn a_clear_of_more_than_was_asked_for_is_found() {
    let clear = Op::Clear { id: 0, first: 448, pages: Some(64), mask: vec![1 << (PAGE - 448)] };
    let ops = [create(0, 0, LogMode::On), store(0, PAGE), store(0, PAGE + 1), clear];
    is_found_everywhere(Break::ClearMore, SMALL, &ops, "lost a page");
}

#[test]
fn a_write_protect_all_that_forgets_a_root_is_found() {
    let ops = [
        create(0, 0, LogMode::On),
        create(1, 1, LogMode::On),
        store(3, PAGE),
        Op::TakeAll,
        store(3, PAGE),
        Op::Read(1),
    ];
    is_found_everywhere(Break::OneRoot, SMALL, &ops, "lost a page");
}

/// What a log that starts looks for are the entries in the tables' sets, and a split that lifts puts
/// none of its own there.
#[test]
fn a_split_that_makes_storable_leaves_is_found() {
    let ops = [
        create(0, 0, LogMode::Off),
        store(0, PAGE),
        Op::SplitHuge { id: 0, frames: 8 },
        Op::Start(0, Initial::Clean),
        store(0, OTHER),
        Op::Read(0),
    ];
    is_found_everywhere(Break::SplitLifts, LARGE, &ops, "lost a page");
}

#[test]
fn a_split_without_a_break_before_it_is_found_on_arm() {
    let ops = [
        create(0, 0, LogMode::Off),
        store(0, PAGE),
        Op::Start(0, Initial::Clean),
        load(1, PAGE),
        store(0, PAGE),
        load(1, OTHER),
    ];
    is_found::<Stage2>(Break::SkipBreak, LARGE, &ops, "both sizes at once");
}

#[test]
fn a_read_that_links_a_parked_table_unsettled_is_found_on_arm() {
    let ops = [
        create(0, 0, LogMode::On),
        store(0, PAGE),
        Op::TakeAll,
        load(0, PAGE),
        store(0, PAGE),
        Op::Read(0),
    ];
    is_found::<Stage2>(Break::ReadLifts, SMALL, &ops, "lost a page");
}

/// Memory that might change, and in the end does not.
fn change(page: u64, meanwhile: Vec<Op>) -> Op {
    Op::Invalidate { first: page, pages: 1, change: Change::Nothing, meanwhile }
}

#[test]
fn an_invalidation_that_ends_for_all_is_found() {
    let meanwhile = vec![change(OTHER, vec![]), load(0, PAGE)];
    let ops = [create(0, 0, LogMode::Off), store(0, PAGE), change(PAGE, meanwhile)];
    is_found_everywhere(Break::EndForAll, SMALL, &ops, "passes");
}

#[test]
fn a_huge_leaf_that_comes_back_over_changing_memory_is_found() {
    let meanwhile = vec![Op::Stop(0), load(0, OTHER)];
    let ops = [create(0, 0, LogMode::On), store(0, PAGE), change(OTHER, meanwhile)];
    is_found_everywhere(Break::RecoverBlindly, LARGE, &ops, "passes");
}

const SLOT: SlotId = SlotId(0);
const SPACE: AddressSpace = AddressSpace::NORMAL;
/// Aligned to 2 MiB, and not to 1 GiB.
const FIRST: u64 = (1 << 18) + 512;

/// A VM of one slot of 4 MiB, logged or not.
fn vm<F: Format>(rule: Rule, broken: Option<Break>, log: LogMode) -> Mmu<F, Hypervisor> {
    let hypervisor = Hypervisor::with_memory(Plenty).backed_by(rule);
    let mmu = Mmu::new(hypervisor, Config { broken, ..Config::default() }).expect("memory");
    let range = GfnRange::new(Gfn::new(FIRST), 1024).expect("in range");
    mmu.create_slot(SlotSpec { log, ..SlotSpec::new(SLOT, SPACE, range) }).expect("fits");
    mmu
}

/// Moves a page's memory, from beginning to end, while an answer about it is on its way.
fn migrate_during_an_answer<F: Format>(mmu: &Mmu<F, Hypervisor>, page: u64, ask: impl FnOnce()) {
    let (asked, is_asked) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            is_asked.recv().expect("somebody asks");
            let gfn = FIRST + page;
            let range = GfnRange::new(Gfn::new(gfn), 1).expect("in range");
            let invalidation = mmu.invalidate(SPACE, range);
            mmu.embedder().change(Home(gfn)..Home(gfn + 1), Change::Migrate);
            drop(invalidation);
            drop(moved);
        });
        mmu.embedder().during_next_answer(move || {
            asked.send(()).expect("the other waits");
            assert!(is_moved.recv().is_err(), "it says nothing and goes away");
        });
        ask();
    });
}

/// A CPU asks what is behind a page, and while it is told, that moves away.
fn a_fault_asks<F: Format>(broken: Option<Break>) {
    let mmu = vm::<F>(SMALL, broken, LogMode::Off);
    let mut cpu = VirtualCpu::new(&mmu, 0, SPACE).expect("memory");
    let at = Gfn::new(FIRST + 7).gpa();
    migrate_during_an_answer(&mmu, 7, || assert_eq!(cpu.store(at, 1), Ok(())));
    assert_eq!(mmu.embedder().peek(at), 1);
}

/// A recovery asks for a leaf's first page, and while it is told, another of its pages moves away.
fn a_recovery_asks<F: Format>(broken: Option<Break>) {
    let mmu = vm::<F>(LARGE, broken, LogMode::On);
    let mut cpu = VirtualCpu::new(&mmu, 0, SPACE).expect("memory");
    let at = Gfn::new(FIRST + 7).gpa();
    cpu.store(at, 1).expect("RAM");
    migrate_during_an_answer(&mmu, 7, || mmu.stop_log(SLOT).expect("it is on"));
    assert_eq!(cpu.load(at), Ok(1));
}

fn trust_is_found(asks: fn(Option<Break>), name: &str) {
    asks(None);
    let said = objection(|| asks(Some(Break::TrustBacking)));
    let said = said.unwrap_or_else(|| panic!("nobody objected in {name}"));
    assert!(said.contains("which went away"), "{name}: {said}");
}

#[test]
fn a_fault_that_trusts_an_answer_from_before_a_change_is_found() {
    trust_is_found(a_fault_asks::<Ept>, "ept");
    trust_is_found(a_fault_asks::<Npt>, "npt");
    trust_is_found(a_fault_asks::<Stage2>, "stage2");
}

#[test]
fn a_recovery_that_trusts_an_answer_from_before_a_change_is_found() {
    trust_is_found(a_recovery_asks::<Ept>, "ept");
    trust_is_found(a_recovery_asks::<Npt>, "npt");
    trust_is_found(a_recovery_asks::<Stage2>, "stage2");
}
