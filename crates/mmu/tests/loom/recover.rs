//! Getting huge leaves back while faults, logs, changes of memory and slots go on.

use crate::hardware::Backed;
use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, SLOT, Shape, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Initial, MemoryId, Protect, SlotSpec};
use vellum_pte::{Format, Level};

/// An unlogged guest with small leaves in two TLBs, where huge ones could be.
fn small<F: Format>(plan: Plan, shape: Shape, backed: Backed) -> Arc<World<F>> {
    let world = World::<F>::of(plan, Guest { shape, backed, ..Guest::HUGE });
    world.hardware.allow_leaves(Level::L1);
    world.store(0, 0, 1);
    world.store(1, 1, 1);
    world.hardware.allow_leaves(Level::L2);
    world
}

fn flat<F: Format>(plan: Plan) -> Arc<World<F>> {
    small(plan, Shape::Flat, Backed::Fixed)
}

/// Stores go on while a huge leaf comes back.
fn recover_against_store<F: Format>(plan: Plan) {
    let world = flat::<F>(plan);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.mmu.recover_huge(SLOT));
    world.begin();
    world.store(0, 1, 2);
    world.store(1, 0, 2);
    assert_eq!(owner.join().expect("no panic"), Ok(1));
    world.store(0, 0, 3);
    world.store(1, 1, 3);
    assert_eq!([world.hardware.read(0), world.hardware.read(1)], [3, 3], "a write was lost");
}

#[test]
fn a_huge_leaf_comes_back_under_stores() {
    explore([recover_against_store::<X86>, recover_against_store::<Arm>]);
}

#[test]
fn a_table_that_goes_without_its_shoot_down_is_still_walked() {
    must_object(Break::SkipFlush, [recover_against_store::<X86>, recover_against_store::<Arm>]);
}

/// A log starts while a huge leaf comes back, and stores follow.
fn recover_against_start<F: Format>(plan: Plan, initial: Initial) {
    let world = flat::<F>(plan);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.mmu.recover_huge(SLOT).expect("it is there"));
    world.begin();
    world.mmu.start_log(SLOT, initial).expect("memory");
    let copied = match initial {
        Initial::Clean => Copied::whole(&world),
        Initial::AllSet => Copied::default().round(&world, Protect::Pages),
    };
    world.store(0, 0, 2);
    owner.join().expect("no panic");
    world.store(1, 1, 2);
    copied.finish(&world, Protect::Pages);
}

fn against_clean_start<F: Format>(plan: Plan) {
    recover_against_start::<F>(plan, Initial::Clean);
}

fn against_start_all_set<F: Format>(plan: Plan) {
    recover_against_start::<F>(plan, Initial::AllSet);
}

#[test]
fn a_huge_leaf_that_comes_back_while_logging_starts_hides_no_store() {
    explore_bounded(PREEMPTIONS_OF_MANY, [against_clean_start::<X86>, against_clean_start::<Arm>]);
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [against_start_all_set::<X86>, against_start_all_set::<Arm>],
    );
}

#[test]
fn a_leaf_that_comes_back_unasked_misses_the_log() {
    must_object(Break::RecoverBlindly, [against_clean_start::<X86>, against_clean_start::<Arm>]);
}

#[test]
fn a_log_that_ignores_the_recoverys_debt_loses_a_write() {
    must_object(Break::IgnoreDebt, [against_clean_start::<X86>, against_clean_start::<Arm>]);
}

/// The same with stores by whoever recovers. (With a third thread for the log, loom schedules the
/// two that wait for a slot change for ever.)
fn recover_and_store_against_start<F: Format>(plan: Plan) {
    let world = flat::<F>(plan);
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.recover_huge(SLOT).expect("it is there");
        owner.store(0, 0, 2);
        owner.store(0, 1, 2);
    });
    world.begin();
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let copied = Copied::whole(&world).round(&world, Protect::Pages);
    owner.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_recovery_a_starting_log_and_a_store_lose_nothing() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [recover_and_store_against_start::<X86>, recover_and_store_against_start::<Arm>],
    );
}

/// Protection comes over the place of a huge leaf that comes back, below the root, and a log starts.
fn recover_against_protect_all<F: Format>(plan: Plan) {
    let world = small::<F>(plan, Shape::Wide, Backed::Fixed);
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.recover_huge(SLOT).expect("it is there");
        owner.store(0, 0, 2);
    });
    world.begin();
    world.mmu.write_protect_all();
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let copied = Copied::whole(&world);
    world.store(1, 1, 3);
    owner.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

#[test]
fn protect_all_reaches_a_huge_leaf_that_comes_back() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [recover_against_protect_all::<X86>, recover_against_protect_all::<Arm>],
    );
}

/// The last log stops while its table is closed, so that no writable set names the place, and a log
/// starts again.
fn stop_against_start<F: Format>(plan: Plan) {
    let world = small::<F>(plan, Shape::Flat, Backed::Fixed);
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    world.mmu.write_protect_all();
    let owner = world.clone();
    let owner = thread::spawn(move || owner.mmu.stop_log(SLOT));
    world.begin();
    world.store(0, 0, 2);
    owner.join().expect("no panic").expect("it was on");
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let copied = Copied::whole(&world);
    world.store(0, 0, 3);
    world.store(1, 1, 3);
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_huge_leaf_that_comes_back_is_covered() {
    explore_bounded(PREEMPTIONS_OF_MANY, [stop_against_start::<X86>, stop_against_start::<Arm>]);
}

/// The memory behind a huge leaf that comes back is given away.
fn recover_against_invalidation<F: Format>(plan: Plan) {
    let world = small::<F>(plan, Shape::Flat, Backed::Changing);
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.recover_huge(SLOT).expect("it is there");
        owner.store(0, 0, 2);
    });
    world.begin();
    let left = world.give_away(0, 2);
    owner.join().expect("no panic");
    world.store(1, 0, 3);
    assert_eq!(world.hardware.read_at(0), left, "a store landed after its memory was given away");
    assert_eq!(world.hardware.read(0), 3, "a write was lost");
}

#[test]
fn a_huge_leaf_does_not_come_back_over_memory_that_was_given_away() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [recover_against_invalidation::<X86>, recover_against_invalidation::<Arm>],
    );
}

#[test]
fn a_leaf_that_comes_back_unasked_reaches_memory_that_was_given_away() {
    must_object(
        Break::RecoverBlindly,
        [recover_against_invalidation::<X86>, recover_against_invalidation::<Arm>],
    );
}

/// The slot goes and one with other memory takes its name and place.
fn recover_against_another_slot<F: Format>(plan: Plan) {
    let world = small::<F>(plan, Shape::Flat, Backed::Changing);
    let other = SlotSpec { memory: MemoryId(world.pages() as u64), ..world.slots[0] };
    let owner = world.clone();
    let owner = thread::spawn(move || owner.mmu.recover_huge(SLOT));
    world.begin();
    world.mmu.delete_slot(SLOT).expect("it is there");
    let left = world.hardware.read_at(0);
    world.mmu.create_slot(other).expect("fits");
    world.hardware.allow_leaves(Level::L1);
    world.map(0);
    let _ = owner.join().expect("no panic");
    world.store(1, 0, 3);
    assert_eq!(world.hardware.read_at(0), left, "a store landed after the slot was gone");
}

#[test]
fn a_huge_leaf_does_not_come_back_for_another_slot() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [recover_against_another_slot::<X86>, recover_against_another_slot::<Arm>],
    );
}

#[test]
fn a_leaf_that_comes_back_unasked_reaches_the_memory_of_the_slot_before() {
    must_object(
        Break::RecoverBlindly,
        [recover_against_another_slot::<X86>, recover_against_another_slot::<Arm>],
    );
}
