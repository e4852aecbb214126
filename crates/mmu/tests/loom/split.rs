//! Splitting huge leaves: by the first logged write, and ahead of it.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, SLOT, Shape, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, CreateSlotError, HugeLeaves, Initial, Protect};
use vellum_pte::Format;

/// A leaf of two pages that both vCPUs have stored through and still hold.
pub fn huge<F: Format>(plan: Plan) -> Arc<World<F>> {
    let world = World::<F>::of(plan, Guest::HUGE);
    world.store(0, 0, 1);
    world.store(1, 1, 1);
    world
}

/// The same, logged since, and looked at.
fn logged<F: Format>(plan: Plan, initial: Initial) -> (Arc<World<F>>, Copied) {
    let world = huge::<F>(plan);
    world.mmu.start_log(SLOT, initial).expect("memory");
    let copied = Copied::whole(&world);
    world.load(1, 1);
    (world, copied)
}

/// Two vCPUs make the first logged writes to one leaf.
fn two_splits<F: Format>(plan: Plan) {
    let (world, copied) = logged::<F>(plan, Initial::Clean);
    let other = world.clone();
    let other = thread::spawn(move || other.store(0, 0, 2));
    world.begin();
    world.store(1, 1, 2);
    other.join().expect("no panic");
    assert_eq!(world.read_dirty(), [0, 1]);
    copied.finish(&world, Protect::Pages);
}

#[test]
fn the_first_logged_writes_split_a_leaf_once() {
    explore([two_splits::<X86>, two_splits::<Arm>]);
}

#[test]
fn splitting_without_a_break_shows_both_sizes() {
    must_object(Break::SkipBreak, [two_splits::<Arm>]);
}

/// The first logged write while somebody harvests.
fn split_against_harvest<F: Format>(plan: Plan, initial: Initial, protect: Protect) {
    let (world, copied) = logged::<F>(plan, initial);
    let migration = world.clone();
    let migration = thread::spawn(move || copied.round(&migration, protect));
    world.begin();
    world.store(1, 1, 2);
    world.store(1, 1, 3);
    world.store(0, 0, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, protect);
}

fn clean_by_pages<F: Format>(plan: Plan) {
    split_against_harvest::<F>(plan, Initial::Clean, Protect::Pages);
}

fn clean_by_protect_all<F: Format>(plan: Plan) {
    split_against_harvest::<F>(plan, Initial::Clean, Protect::Nothing);
}

fn all_set_by_pages<F: Format>(plan: Plan) {
    split_against_harvest::<F>(plan, Initial::AllSet, Protect::Pages);
}

fn all_set_by_protect_all<F: Format>(plan: Plan) {
    split_against_harvest::<F>(plan, Initial::AllSet, Protect::Nothing);
}

#[test]
fn a_split_and_a_harvest_by_pages_lose_nothing() {
    explore([clean_by_pages::<X86>, clean_by_pages::<Arm>]);
    explore([all_set_by_pages::<X86>, all_set_by_pages::<Arm>]);
}

#[test]
fn a_split_and_protect_all_lose_nothing() {
    explore([clean_by_protect_all::<X86>, clean_by_protect_all::<Arm>]);
    explore([all_set_by_protect_all::<X86>, all_set_by_protect_all::<Arm>]);
}

#[test]
fn a_harvest_of_a_huge_leaf_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [all_set_by_pages::<X86>, all_set_by_pages::<Arm>]);
}

/// A consumer clears one page of a leaf of which all pages are dirty, while stores go through it.
fn clear_against_store<F: Format>(plan: Plan) {
    let (world, copied) = logged::<F>(plan, Initial::AllSet);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        let cleared = migration.clear(0b01);
        copied.pages(&migration, cleared)
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(1, 1, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_clear_of_one_page_protects_the_leaf() {
    explore([clear_against_store::<X86>, clear_against_store::<Arm>]);
}

/// A split below a closed root, while protection comes over it again.
fn split_below_the_root<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, Guest { shape: Shape::Wide, ..Guest::HUGE });
    world.store(0, 0, 1);
    world.store(1, 1, 1);
    world.mmu.start_log(SLOT, Initial::AllSet).expect("memory");
    let copied = Copied::default().round(&world, Protect::Nothing);
    let guest = world.clone();
    let guest = thread::spawn(move || {
        guest.store(0, 0, 2);
        guest.store(0, 1, 2);
    });
    world.begin();
    let copied = copied.round(&world, Protect::Nothing);
    world.store(1, 1, 3);
    guest.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

#[test]
fn protect_all_reaches_a_leaf_that_is_split_below_the_root() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [split_below_the_root::<X86>, split_below_the_root::<Arm>],
    );
}

/// Logging starts while a vCPU stores through the leaf.
fn store_against_start<F: Format>(plan: Plan, initial: Initial) {
    let world = huge::<F>(plan);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        migration.mmu.start_log(SLOT, initial).expect("memory");
        match initial {
            Initial::Clean => Copied::whole(&migration),
            Initial::AllSet => Copied::default().round(&migration, Protect::Pages),
        }
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(1, 1, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn store_against_clean_start<F: Format>(plan: Plan) {
    store_against_start::<F>(plan, Initial::Clean);
}

fn store_against_start_all_set<F: Format>(plan: Plan) {
    store_against_start::<F>(plan, Initial::AllSet);
}

#[test]
fn a_store_through_a_huge_leaf_is_logged_once_logging_has_started() {
    explore([store_against_clean_start::<X86>, store_against_clean_start::<Arm>]);
    explore([store_against_start_all_set::<X86>, store_against_start_all_set::<Arm>]);
}

fn split_ahead<F: Format>(world: &World<F>) {
    let report = world.mmu.split_huge(SLOT, u64::MAX).expect("memory");
    assert_eq!(report.left, HugeLeaves::None);
    assert!(!world.is_huge(0), "a huge leaf is left that was said to be split");
}

/// The leaf is split ahead while logging starts, and a store follows.
fn eager_against_start<F: Format>(plan: Plan, initial: Initial) {
    let world = huge::<F>(plan);
    let splitter = world.clone();
    let splitter = thread::spawn(move || split_ahead(&splitter));
    world.begin();
    world.mmu.start_log(SLOT, initial).expect("memory");
    let copied = match initial {
        Initial::Clean => Copied::whole(&world),
        Initial::AllSet => Copied::default().round(&world, Protect::Pages),
    };
    world.store(0, 0, 2);
    world.store(1, 1, 2);
    splitter.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn eager_against_clean_start<F: Format>(plan: Plan) {
    eager_against_start::<F>(plan, Initial::Clean);
}

fn eager_against_start_all_set<F: Format>(plan: Plan) {
    eager_against_start::<F>(plan, Initial::AllSet);
}

#[test]
fn a_leaf_that_is_split_while_logging_starts_hides_no_store() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [eager_against_clean_start::<X86>, eager_against_clean_start::<Arm>],
    );
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [eager_against_start_all_set::<X86>, eager_against_start_all_set::<Arm>],
    );
}

#[test]
fn a_split_that_lifts_loses_a_write() {
    must_object(
        Break::SplitLifts,
        [eager_against_clean_start::<X86>, eager_against_clean_start::<Arm>],
    );
}

#[test]
fn ignoring_the_splits_debt_loses_a_write() {
    must_object(
        Break::IgnoreDebt,
        [eager_against_clean_start::<X86>, eager_against_clean_start::<Arm>],
    );
}

/// The leaf of a logged slot is split ahead while stores go through it and somebody harvests.
fn eager_among_three<F: Format>(plan: Plan) {
    let (world, copied) = logged::<F>(plan, Initial::AllSet);
    let (splitter, migration) = (world.clone(), world.clone());
    let splitter = thread::spawn(move || split_ahead(&splitter));
    let migration = thread::spawn(move || copied.round(&migration, Protect::Pages));
    world.begin();
    world.store(1, 1, 2);
    world.store(1, 1, 3);
    splitter.join().expect("no panic");
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_split_ahead_a_store_and_a_harvest_lose_nothing() {
    explore_bounded(PREEMPTIONS_OF_MANY, [eager_among_three::<X86>, eager_among_three::<Arm>]);
}

/// A split while somebody else's shoot-down is unpaid. Each shoot-down waits for a slot change, as it
/// may where that runs on a processor that answers nothing meanwhile.
fn split_against_unpaid_shoot_down<F: Format>(plan: Plan) {
    let (world, copied) = logged::<F>(plan, Initial::Clean);
    let changing = world.clone();
    world.hardware.shoot_down_with(Some(Box::new(move || {
        let again = changing.mmu.create_slot(changing.slots[0]);
        assert_eq!(again, Err(CreateSlotError::Exists(SLOT)));
    })));
    let migration = world.clone();
    let migration = thread::spawn(move || copied.round(&migration, Protect::Pages));
    world.begin();
    world.store(0, 0, 2);
    let copied = migration.join().expect("no panic");
    world.hardware.shoot_down_with(None);
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_split_shoots_down_outside_of_the_read_side() {
    explore([split_against_unpaid_shoot_down::<X86>, split_against_unpaid_shoot_down::<Arm>]);
}
