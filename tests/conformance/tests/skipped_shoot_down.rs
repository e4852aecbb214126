//! Each shoot-down that the library makes is needed: if a hypervisor's n-th does nothing, an access
//! goes on unnoticed, and the suite says where. The same for the flush of one address.

use vellum_conformance::hypervisor::{Backings, Change, Rule};
use vellum_conformance::scene::Op;
use vellum_conformance::script::{LocalFlushes, Setup, objection};
use vellum_mmu::{AccessedBits, DirtyBits, Initial, LogMode, SlotAccess, SubPageHardware};
use vellum_pte::{Ept, Format, Npt, Replace, Stage2};

/// A page of the first huge leaf, and another.
const PAGE: u64 = 500;
const OTHER: u64 = 600;
/// The group of 64 that the first is in, and its place there.
const GROUP: u64 = PAGE & !63;
const MASK: u64 = 1 << (PAGE % 64);

const SMALL: Rule = Rule { backings: Backings::Small, skew: 0 };
const LARGE: Rule = Rule { backings: Backings::Large, skew: 0 };

/// A way through the library, and what is said if one of its shoot-downs is forgotten.
#[derive(Clone)]
struct Path {
    name: &'static str,
    rule: Rule,
    ops: Vec<Op>,
    /// What is said to each that is forgotten.
    said: Vec<&'static str>,
    /// What is said to those that come after them on Arm, where a split breaks before it makes.
    on_arm: Vec<&'static str>,
    /// How many it makes at the end that nobody has had need of yet.
    spare: u64,
}

fn path(name: &'static str, rule: Rule, ops: Vec<Op>, said: &'static str) -> Path {
    Path { name, rule, ops, said: vec![said], on_arm: vec![], spare: 0 }
}

/// What the suite says where a store is in no log.
const LOST: &str = "lost a page";
/// Where an access reaches memory or a place that is not there any more.
const STRAY: &str = "went away";
const PASSES: &str = "an access at";
/// Where a table is reached that has gone.
const RELEASED: &str = "a table that was released";
const BOTH_SIZES: &str = "both sizes at once";
const NOT_SEEN: &str = "was accessed, named";

fn create(log: LogMode) -> Op {
    Op::Create { id: 0, space: 0, first: 0, pages: 1001, access: SlotAccess::ReadWrite, log }
}

fn store(cpu: usize, page: u64) -> Op {
    Op::Store { cpu, page, word: 0, value: page + 1 }
}

fn load(cpu: usize, page: u64) -> Op {
    Op::Load { cpu, page, word: 0 }
}

fn change(first: Option<u64>, log: LogMode) -> Op {
    Op::Change { id: 0, first, log, fixed: None }
}

fn clear() -> Op {
    Op::Clear { id: 0, first: GROUP, pages: Some(64), mask: vec![MASK] }
}

fn split() -> Op {
    Op::SplitHuge { id: 0, frames: u64::MAX }
}

fn age() -> Op {
    Op::Age { id: 0, first: 0, pages: 1001 }
}

/// Something that takes stores away from a page that is stored to before and after.
fn protects(name: &'static str, begin: LogMode, op: Op) -> [Path; 2] {
    let ops = vec![create(begin), store(0, PAGE), op, load(1, PAGE), store(0, PAGE), Op::Read(0)];
    [SMALL, LARGE].map(|rule| path(name, rule, ops.clone(), LOST))
}

/// The same of a leaf that is huge until the store.
fn splits([small, large]: [Path; 2]) -> [Path; 2] {
    [small, Path { on_arm: vec![BOTH_SIZES], ..large }]
}

/// Something that takes a page away.
fn removes(name: &'static str, op: Op, said: &'static str) -> [Path; 2] {
    let ops = vec![create(LogMode::Off), store(0, PAGE), op, store(0, PAGE)];
    [SMALL, LARGE].map(|rule| path(name, rule, ops.clone(), said))
}

fn ageing() -> [Path; 2] {
    let ops = vec![create(LogMode::Off), load(0, PAGE), age(), load(0, PAGE), age()];
    [SMALL, LARGE].map(|rule| Path { spare: 1, ..path("ageing", rule, ops.clone(), NOT_SEEN) })
}

const NOT_FIRST: u32 = 0xffff_fffe;
const NOT_SECOND: u32 = 0xffff_fffd;
const NEITHER: u32 = 0xffff_fffc;

fn set_map(map: u32) -> Op {
    Op::SetMaps { space: 0, first: PAGE, flags: 0, maps: vec![map] }
}

/// Something that takes a page from the processor.
fn restricts(name: &'static str, on: Op, op: Op) -> [Path; 2] {
    let ops = vec![on, create(LogMode::Off), store(0, PAGE), op, store(0, PAGE)];
    [SMALL, LARGE].map(|rule| path(name, rule, ops.clone(), PASSES))
}

/// Something that takes away what the table of sub-pages permits. The shoot-down before it is that of
/// the map, which the store to the second sub-page needs.
fn partly(name: &'static str, op: Op, said: &'static str) -> Path {
    let behind = Op::Store { cpu: 0, page: PAGE, word: 16, value: 1 };
    let ops = vec![
        Op::EnableTracking,
        Op::Activate,
        create(LogMode::On),
        store(0, PAGE),
        set_map(NOT_SECOND),
        behind,
        store(0, PAGE),
        op,
        load(1, PAGE),
        store(0, PAGE),
        Op::Read(0),
    ];
    Path { said: vec![PASSES, said], ..path(name, SMALL, ops, said) }
}

/// After a write-protect-all another CPU remembers a leaf that asks the tables, and a store to the page
/// beside it opens them: the last shoot-down makes the other forget.
fn opening() -> Path {
    let first = Op::SetMaps { space: 0, first: PAGE, flags: 0, maps: vec![NOT_SECOND; 101] };
    let ops = vec![
        Op::Activate,
        create(LogMode::On),
        store(0, PAGE),
        first,
        Op::Store { cpu: 0, page: PAGE, word: 16, value: 1 },
        store(0, PAGE),
        store(0, OTHER),
        Op::TakeAll,
        load(1, OTHER),
        store(0, PAGE),
        store(1, OTHER),
        Op::Read(0),
    ];
    Path { said: vec![PASSES, LOST, LOST], ..path("opening over closed leaves", SMALL, ops, LOST) }
}

/// The ways of tables of sub-pages.
fn paths_by_tables() -> Vec<Path> {
    let forget = Op::Forget { space: 0, first: PAGE, pages: 1 };
    vec![
        partly("another map", set_map(NEITHER), PASSES),
        partly("tracking a restricted page", Op::Track { space: 0, page: PAGE }, PASSES),
        partly("clear of a restricted page", clear(), LOST),
        partly("forgetting a restricted page", forget, LOST),
        partly("harvest of a restricted page", Op::TakePages(0), LOST),
        opening(),
        partly("move of a restricted page", change(Some(600), LogMode::On), PASSES),
        partly("deletion of a restricted page", Op::Delete(0), PASSES),
    ]
}

/// The ways that are the same in all formats.
fn paths() -> Vec<Path> {
    let (off, on) = (LogMode::Off, LogMode::On);
    let forget = Op::Forget { space: 0, first: PAGE, pages: 1 };
    let meanwhile = vec![load(0, PAGE), load(1, PAGE)];
    let invalidate = Op::Invalidate { first: PAGE, pages: 1, change: Change::Migrate, meanwhile };
    let pairs = [
        protects("clear", on, clear()),
        protects("forget", on, forget),
        protects("harvest by pages", on, Op::TakePages(0)),
        protects("write-protect-all", on, Op::TakeAll),
        splits(protects("start of a log", off, Op::Start(0, Initial::Clean))),
        splits(protects("start of a log by change", off, change(None, on))),
        restricts("tracking", Op::EnableTracking, Op::Track { space: 0, page: PAGE }),
        restricts("a map", Op::Activate, set_map(NOT_FIRST)),
        removes("deletion", Op::Delete(0), PASSES),
        removes("move", change(Some(600), off), PASSES),
        removes("invalidation", invalidate, STRAY),
        ageing(),
    ];
    let of_huge_leaves = [
        path("split of a storable leaf", LARGE, split_storable(), LOST),
        path("recovery", LARGE, recovered(Op::Stop(0)), RELEASED),
        path("recovery by change", LARGE, recovered(change(None, off)), RELEASED),
        Path {
            on_arm: vec![BOTH_SIZES],
            ..path("clear and split", LARGE, split_after_clear(), LOST)
        },
    ];
    pairs.into_iter().flatten().chain(of_huge_leaves).collect()
}

/// The log that starts finds nothing storable, since the new leaves are not.
fn split_storable() -> Vec<Op> {
    let start = Op::Start(0, Initial::Clean);
    vec![create(LogMode::Off), store(0, PAGE), split(), start, store(0, OTHER), Op::Read(0)]
}

fn recovered(op: Op) -> Vec<Op> {
    vec![create(LogMode::On), store(0, PAGE), op, store(0, OTHER), load(0, PAGE)]
}

/// The first clear protects a huge leaf, which the first store after it splits.
fn split_after_clear() -> Vec<Op> {
    vec![
        create(LogMode::Off),
        store(0, PAGE),
        Op::Start(0, Initial::AllSet),
        clear(),
        load(1, PAGE),
        store(0, PAGE),
        load(1, OTHER),
        Op::Read(0),
    ]
}

/// Runs a path with the `forgotten`-th shoot-down doing nothing: what is said.
fn without<F: Format>(path: &Path, setup: Setup, forgotten: u64) -> Option<String> {
    let setup = Setup { forgotten: Some(forgotten), ..setup };
    objection(|| {
        setup.run::<F>(&path.ops);
    })
}

fn each_is_missed<F: Format>(path: &Path, setup: Setup) {
    let name = format!("{} in {} over {:?}", path.name, F::NAME, path.rule.backings);
    let breaks_first = matches!(F::REPLACE, Replace::BreakFirst);
    let on_arm = path.on_arm.iter().filter(|_| breaks_first);
    let said: Vec<_> = path.said.iter().chain(on_arm).collect();
    let made = setup.run::<F>(&path.ops);
    assert_eq!(made, said.len() as u64 + path.spare, "{name}");
    for (forgotten, expected) in (1..).zip(said) {
        let said = without::<F>(path, setup, forgotten);
        let said = said.unwrap_or_else(|| panic!("{name}: nobody missed the {forgotten}th"));
        assert!(said.contains(expected), "{name}, without the {forgotten}th: {said}");
    }
}

fn every_path<F: Format>(address_bits: u32) {
    for path in paths() {
        each_is_missed::<F>(&path, Setup::new(address_bits, path.rule));
    }
}

#[test]
fn a_shoot_down_skipped_on_any_path_is_found() {
    every_path::<Ept>(48);
    every_path::<Npt>(48);
    [32, 40, 48].into_iter().for_each(every_path::<Stage2>);
}

#[test]
fn a_shoot_down_skipped_where_sub_pages_have_tables_is_found() {
    for path in paths_by_tables() {
        each_is_missed::<Ept>(&path, Setup::new(48, path.rule));
    }
}

#[test]
fn a_shoot_down_skipped_where_intel_has_no_such_tables_is_found() {
    let sub_pages = SubPageHardware::Absent;
    for path in paths() {
        each_is_missed::<Ept>(&path, Setup { sub_pages, ..Setup::new(48, path.rule) });
    }
}

/// Something that clears the D bit of a page that is stored to before and after: a translation that has
/// set it before would not set it again. The last look clears it once more.
fn clears(name: &'static str, op: Op) -> Path {
    let ops = vec![create(LogMode::On), store(0, PAGE), op, store(0, PAGE), Op::Read(0)];
    Path { spare: 1, ..path(name, SMALL, ops, LOST) }
}

#[test]
fn a_shoot_down_skipped_where_d_bits_are_cleared_is_found() {
    let dirty_bits = DirtyBits::Scanned;
    for path in [clears("harvest by D bits", Op::TakePages(0)), clears("clear by D bits", clear())]
    {
        each_is_missed::<Ept>(&path, Setup { dirty_bits, ..Setup::new(48, SMALL) });
        each_is_missed::<Npt>(&path, Setup { dirty_bits, ..Setup::new(48, SMALL) });
        each_is_missed::<Stage2>(&path, Setup { dirty_bits, ..Setup::new(40, SMALL) });
    }
}

#[test]
fn ageing_without_accessed_bits_needs_its_shoot_down_too() {
    let accessed = AccessedBits::NotSet;
    for path in ageing() {
        each_is_missed::<Ept>(&path, Setup { accessed, ..Setup::new(48, path.rule) });
        each_is_missed::<Stage2>(&path, Setup { accessed, ..Setup::new(40, path.rule) });
    }
}

/// A store to a page that was read: on Arm the TLB keeps the refusal.
fn opened_after_a_read() -> Vec<Op> {
    vec![create(LogMode::On), load(0, PAGE), store(0, PAGE), Op::Read(0)]
}

fn faults_for_ever<F: Format>(address_bits: u32) -> bool {
    let local_flushes = LocalFlushes::Forgotten;
    let setup = Setup { local_flushes, ..Setup::new(address_bits, SMALL) };
    let said = objection(|| {
        setup.run::<F>(&opened_after_a_read());
    });
    said.is_some_and(|said| said.contains("it faults for ever"))
}

#[test]
fn the_flush_of_an_opened_address_is_needed_on_arm_and_not_on_x86() {
    assert!(faults_for_ever::<Stage2>(40));
    assert!(!faults_for_ever::<Ept>(48));
    assert!(!faults_for_ever::<Npt>(48));
}
