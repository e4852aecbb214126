//! Stores that pass through partly writable leaves, against harvests and write-protect-all.

use crate::tiny::X86;
use crate::world::{Copied, Guest, SLOT, Shape, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Initial, Outcome, Protect};
use vellum_pte::SubPageMap;

/// The first sub-page alone may be written.
const FIRST: SubPageMap = SubPageMap::new(1);

/// Two pages of one table. Of the first, one sub-page may be written.
fn restricted(plan: Plan, shape: Shape) -> Arc<World<X86>> {
    let world = World::of(plan, Guest { shape, ..Guest::RESTRICTED });
    world.restrict(0, FIRST);
    world
}

/// A permitted store may be made by the embedder, where another vCPU was faster.
fn store(world: &World<X86>, cpu: usize, page: usize, value: u8) {
    assert_eq!(world.store_or_emulate(cpu, page, value), Outcome::Mapped);
}

/// A vCPU stores to a restricted page while somebody harvests.
fn store_against_harvest(plan: Plan, protect: Protect, prepare: fn(&World<X86>)) {
    let world = restricted(plan, Shape::Flat);
    prepare(&world);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, protect));
    world.begin();
    store(&world, 0, 0, 2);
    store(&world, 0, 0, 3);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, protect);
}

fn by_pages(plan: Plan) {
    store_against_harvest(plan, Protect::Pages, |world| store(world, 0, 0, 1));
}

fn from_denied_by_pages(plan: Plan) {
    store_against_harvest(plan, Protect::Pages, |world| world.map(0));
}

fn by_protect_all(plan: Plan) {
    store_against_harvest(plan, Protect::Nothing, |world| store(world, 0, 0, 1));
}

fn from_denied_by_protect_all(plan: Plan) {
    store_against_harvest(plan, Protect::Nothing, |world| world.map(0));
}

#[test]
fn a_permitted_store_is_logged_or_still_closed() {
    explore([by_pages, from_denied_by_pages]);
}

#[test]
fn protect_all_reaches_permitted_stores() {
    explore([by_protect_all, from_denied_by_protect_all]);
}

#[test]
fn a_harvest_of_permitted_stores_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [by_pages, by_protect_all]);
}

#[test]
fn marking_before_permitting_loses_a_write() {
    must_object(Break::MarkEarly, [from_denied_by_pages]);
}

#[test]
fn sub_page_tables_that_stay_open_lose_a_write() {
    must_object(Break::OpenSubPageRoot, [by_protect_all]);
}

#[test]
fn sub_page_tables_that_open_over_old_leaves_lose_a_write() {
    must_object(Break::OpenOverLeaves, [by_protect_all]);
}

/// Write-protect-all is under way, a push-down settles the leaves, and a log starts that goes by
/// their writable set.
fn settle_against_start(plan: Plan, neighbour: SubPageMap) {
    let world = restricted(plan, Shape::Flat);
    world.restrict(1, neighbour);
    store(&world, 0, 0, 1);
    world.map(1);
    world.take();
    let (other, guest) = (world.clone(), world.clone());
    let other = thread::spawn(move || other.mmu.write_protect_all());
    let guest = thread::spawn(move || store(&guest, 1, 1, 2));
    world.begin();
    world.mmu.start_log(SLOT, Initial::Clean).expect("it is on");
    let copied = Copied::whole(&world);
    world.try_store(0, 0, 3);
    other.join().expect("no panic");
    guest.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn settled_from_above(plan: Plan) {
    settle_against_start(plan, SubPageMap::ALL);
}

fn settled_by_a_miss(plan: Plan) {
    settle_against_start(plan, FIRST);
}

#[test]
fn a_log_that_starts_during_a_settle_misses_no_permitted_store() {
    explore_bounded(PREEMPTIONS_OF_MANY, [settled_from_above, settled_by_a_miss]);
}

/// Protection has come over two pages. One vCPU has looked at its page since, another's store opens
/// the way to both.
fn store_against_miss(plan: Plan) {
    let world = restricted(plan, Shape::Flat);
    world.restrict(1, FIRST);
    store(&world, 0, 0, 1);
    store(&world, 1, 1, 1);
    let copied = Copied::default().round(&world, Protect::Nothing);
    world.load(0, 0);
    let other = world.clone();
    let other = thread::spawn(move || store(&other, 1, 1, 2));
    world.begin();
    store(&world, 0, 0, 2);
    let copied = copied.round(&world, Protect::Pages);
    store(&world, 0, 0, 3);
    other.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_path_opens_over_no_leaf_that_a_processor_remembers() {
    explore_bounded(PREEMPTIONS_OF_MANY, [store_against_miss]);
}

#[test]
fn opening_without_a_shoot_down_over_such_a_leaf_loses_a_write() {
    must_object(Break::SkipFlush, [store_against_miss]);
}

/// The same where a map that changes has closed the leaf, and not shot down yet.
fn miss_against_map(plan: Plan) {
    let world = restricted(plan, Shape::Flat);
    world.restrict(1, FIRST);
    store(&world, 0, 0, 1);
    let copied = Copied::default().round(&world, Protect::Nothing);
    world.load(0, 0);
    let other = world.clone();
    let other = thread::spawn(move || other.restrict(0, SubPageMap::new(0b11)));
    world.begin();
    store(&world, 1, 1, 2);
    world.try_store(0, 0, 3);
    other.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_path_that_opens_pays_for_anothers_shoot_down() {
    explore_bounded(PREEMPTIONS_OF_MANY, [miss_against_map]);
}

#[test]
fn opening_over_anothers_debt_loses_a_write() {
    must_object(Break::IgnoreDebt, [miss_against_map]);
}

/// A push-down is late: while it holds a generation's number, another generation begins, and a leaf
/// of it is opened for permitted stores and harvested by pages.
fn late_push_down(plan: Plan, shape: Shape) {
    let world = restricted(plan, shape);
    world.restrict(1, SubPageMap::NONE);
    store(&world, 0, 0, 1);
    let copied = Copied::default().round(&world, Protect::Nothing);
    let late = world.clone();
    let late = thread::spawn(move || {
        assert!(matches!(late.store_if_there(1, 1, 9), Outcome::Denied(_)));
    });
    world.begin();
    let copied = copied.round(&world, Protect::Nothing);
    store(&world, 0, 0, 2);
    let copied = copied.round(&world, Protect::Pages);
    store(&world, 0, 0, 3);
    late.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn late_in_two_levels(plan: Plan) {
    late_push_down(plan, Shape::Flat);
}

fn late_in_three_levels(plan: Plan) {
    late_push_down(plan, Shape::Wide);
}

#[test]
fn a_late_push_down_closes_no_leaf_that_stores_pass_in_part() {
    explore_bounded(PREEMPTIONS_OF_MANY, [late_in_two_levels, late_in_three_levels]);
}

#[test]
fn settling_such_a_leaf_back_loses_a_write() {
    must_object(Break::SettleBack, [late_in_two_levels, late_in_three_levels]);
}

/// Two generations begin while a vCPU stores through a partly writable leaf, and another opens the
/// way to its neighbour.
fn two_generations(plan: Plan, shape: Shape) {
    let world = restricted(plan, shape);
    world.restrict(1, FIRST);
    store(&world, 0, 0, 1);
    store(&world, 1, 1, 1);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        let copied = Copied::default().round(&migration, Protect::Nothing);
        store(&migration, 1, 1, 2);
        let copied = copied.round(&migration, Protect::Nothing);
        store(&migration, 1, 1, 3);
        copied.round(&migration, Protect::Pages)
    });
    world.begin();
    store(&world, 0, 0, 2);
    store(&world, 0, 0, 3);
    let copied = migration.join().expect("no panic");
    store(&world, 0, 0, 4);
    copied.finish(&world, Protect::Pages);
}

fn two_in_two_levels(plan: Plan) {
    two_generations(plan, Shape::Flat);
}

fn two_in_three_levels(plan: Plan) {
    two_generations(plan, Shape::Wide);
}

#[test]
fn permitted_stores_of_two_generations_are_in_the_log() {
    explore_bounded(PREEMPTIONS_OF_MANY, [two_in_two_levels, two_in_three_levels]);
}

#[test]
fn a_generation_that_leaves_sub_page_tables_open_loses_a_write() {
    must_object(Break::OpenSubPageRoot, [two_in_two_levels, two_in_three_levels]);
    must_object(Break::OpenOverLeaves, [two_in_two_levels, two_in_three_levels]);
}

/// The way to a page is open, but its table of leaves has gone with the slot of its neighbour. A read
/// brings another, of an older generation than the way.
fn leaves_that_come_later(plan: Plan) {
    let world = restricted(plan, Shape::Apart);
    store(&world, 0, 0, 1);
    world.map(1);
    let copied = Copied::default().round(&world, Protect::Nothing);
    assert_eq!(world.miss(0), Outcome::Mapped);
    world.touch_backing(0);
    world.mmu.delete_slot(world.slots[1].id).expect("it is there");
    let guest = world.clone();
    let guest = thread::spawn(move || {
        store(&guest, 0, 0, 2);
        store(&guest, 0, 0, 3);
    });
    world.begin();
    let copied = copied.round(&world, Protect::Nothing);
    world.map(0);
    store(&world, 1, 0, 4);
    let copied = copied.round(&world, Protect::Pages);
    guest.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn leaves_that_a_read_brings_below_an_open_path_lose_nothing() {
    explore_bounded(PREEMPTIONS_OF_MANY, [leaves_that_come_later]);
}

/// A slot goes while a vCPU walks its sub-page tables.
fn store_against_deletion(plan: Plan) {
    let world = restricted(plan, Shape::Flat);
    store(&world, 0, 0, 1);
    world.mmu.write_protect_all();
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.delete_slot(SLOT).expect("it is there");
        owner.hardware.read(0)
    });
    world.begin();
    let outcome = world.store_if_there(0, 0, 2);
    assert!(matches!(outcome, Outcome::Mapped | Outcome::Mmio), "{outcome:?}");
    let left = owner.join().expect("no panic");
    world.try_store(0, 0, 3);
    assert_eq!(world.hardware.read(0), left, "a store landed after its slot had gone");
}

#[test]
fn sub_page_tables_outlive_their_readers() {
    explore_bounded(PREEMPTIONS_OF_MANY, [store_against_deletion]);
}

#[test]
fn freeing_them_before_is_seen() {
    must_object(Break::FreeEarly, [store_against_deletion]);
    must_object(Break::SkipFlush, [store_against_deletion]);
}

/// A miss is handled late, where no table of leaves is any more. A read brings one, of the generation
/// that the table above it still has, while a fault is under way that passed the root before that
/// closed; then another fault pushes down, and somebody harvests by pages.
fn late_miss(plan: Plan) {
    let world = restricted(plan, Shape::Wide);
    world.restrict(1, SubPageMap::NONE);
    world.store(1, 2, 1);
    let guest = world.clone();
    let guest = thread::spawn(move || {
        store(&guest, 0, 0, 2);
        thread::yield_now();
        store(&guest, 0, 0, 3);
    });
    world.begin();
    let copied = Copied::default().round(&world, Protect::Nothing);
    let _ = world.miss(0);
    world.map(0);
    thread::yield_now();
    assert!(matches!(world.store_if_there(1, 1, 9), Outcome::Denied(_)));
    let copied = copied.round(&world, Protect::Pages);
    guest.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_miss_that_comes_late_opens_over_no_leaves_that_come_later() {
    explore_bounded(PREEMPTIONS_OF_MANY, [late_miss]);
}
