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

/// A vCPU stores through a partly writable leaf while somebody harvests.
fn store_against_harvest(plan: Plan, protect: Protect) {
    let world = restricted(plan, Shape::Flat);
    store(&world, 0, 0, 1);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, protect));
    world.begin();
    store(&world, 0, 0, 2);
    store(&world, 0, 0, 3);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, protect);
}

fn by_pages(plan: Plan) {
    store_against_harvest(plan, Protect::Pages);
}

fn by_protect_all(plan: Plan) {
    store_against_harvest(plan, Protect::Nothing);
}

#[test]
fn a_permitted_store_is_logged_or_still_closed() {
    explore([by_pages]);
}

#[test]
fn protect_all_reaches_permitted_stores() {
    explore_bounded(PREEMPTIONS_OF_MANY, [by_protect_all]);
}

#[test]
fn a_harvest_of_permitted_stores_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [by_pages, by_protect_all]);
}

#[test]
fn sub_page_tables_that_stay_open_lose_a_write() {
    must_object(Break::OpenSubPageRoot, [by_protect_all]);
}

#[test]
fn sub_page_tables_that_open_over_old_leaves_lose_a_write() {
    must_object(Break::OpenOverLeaves, [by_protect_all]);
}

/// Write-protect-all has closed the tables of pages and is about to close those of sub-pages, a
/// push-down settles the leaves, and a log starts that goes by their writable set.
fn settle_against_start(plan: Plan) {
    let world = restricted(plan, Shape::Flat);
    store(&world, 0, 0, 1);
    world.map(1);
    world.take();
    let (other, guest) = (world.clone(), world.clone());
    let other = thread::spawn(move || other.mmu.write_protect_all());
    let guest = thread::spawn(move || guest.store(1, 1, 2));
    world.begin();
    world.mmu.start_log(SLOT, Initial::Clean).expect("it is on");
    let copied = Copied::whole(&world);
    world.try_store(0, 0, 3);
    other.join().expect("no panic");
    guest.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_log_that_starts_during_a_settle_misses_no_permitted_store() {
    explore_bounded(PREEMPTIONS_OF_MANY, [settle_against_start]);
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
    explore([store_against_miss]);
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
