//! Write-protect-all against faults, and push-downs against each other and against harvests.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, SLOT, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Initial, Protect};
use vellum_pte::Format;

/// A vCPU maps, links and opens while protection comes over it.
fn fault_against_protect_all<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, Protect::Nothing));
    world.begin();
    world.store(0, 0, 1);
    world.store(0, 0, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

#[test]
fn protect_all_reaches_a_fault_in_mid_walk() {
    explore([fault_against_protect_all::<X86>, fault_against_protect_all::<Arm>]);
}

#[test]
fn protect_all_without_its_shoot_down_loses_a_write() {
    must_object(
        Break::SkipFlush,
        [fault_against_protect_all::<X86>, fault_against_protect_all::<Arm>],
    );
}

/// Two pages of one table, written, harvested and closed from above.
pub fn closed_world<F: Format>(plan: Plan) -> (Arc<World<F>>, Copied) {
    let world = World::<F>::new(plan);
    world.store(0, 0, 1);
    world.store(0, 1, 1);
    let copied = Copied::default().round(&world, Protect::Nothing);
    (world, copied)
}

/// Two vCPUs push one table down while a third thread harvests by pages.
fn two_push_downs<F: Format>(plan: Plan) {
    let protect = Protect::Pages;
    let (world, copied) = closed_world::<F>(plan);
    let (other, migration) = (world.clone(), world.clone());
    let other = thread::spawn(move || other.store(0, 0, 2));
    let migration = thread::spawn(move || copied.round(&migration, protect));
    world.begin();
    world.store(1, 1, 2);
    world.store(1, 1, 3);
    other.join().expect("no panic");
    let copied = migration.join().expect("no panic");
    copied.finish(&world, protect);
}

/// The same with the harvest on the thread of one vCPU, after its store. (With three threads that
/// take the root's lock, loom schedules the two that wait for ever.)
fn two_push_downs_then_protect_all<F: Format>(plan: Plan) {
    let (world, copied) = closed_world::<F>(plan);
    let other = world.clone();
    let other = thread::spawn(move || {
        other.store(0, 0, 2);
        copied.round(&other, Protect::Nothing)
    });
    world.begin();
    world.store(1, 1, 2);
    world.store(1, 1, 3);
    let copied = other.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

#[test]
fn two_push_downs_and_a_harvest_by_pages_lose_nothing() {
    explore_bounded(PREEMPTIONS_OF_MANY, [two_push_downs::<X86>, two_push_downs::<Arm>]);
}

#[test]
fn two_push_downs_and_protect_all_lose_nothing() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [two_push_downs_then_protect_all::<X86>, two_push_downs_then_protect_all::<Arm>],
    );
}

#[test]
fn opening_above_before_settling_below_loses_a_write() {
    must_object(
        Break::LateSettle,
        [two_push_downs_then_protect_all::<X86>, two_push_downs_then_protect_all::<Arm>],
    );
}

#[test]
fn settling_without_the_lock_loses_a_write() {
    must_object(Break::SettleUnlocked, [two_push_downs::<X86>, two_push_downs::<Arm>]);
}

/// A push-down is late: while it holds a generation's number, another generation begins, is pushed
/// down by somebody else and harvested by pages.
fn late_push_down<F: Format>(plan: Plan) {
    let (world, copied) = closed_world::<F>(plan);
    let late = world.clone();
    let late = thread::spawn(move || late.store(0, 0, 2));
    world.begin();
    let copied = copied.round(&world, Protect::Nothing);
    world.store(1, 1, 2);
    let copied = copied.round(&world, Protect::Pages);
    world.store(1, 1, 3);
    late.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_late_push_down_closes_nothing_that_a_later_one_opened() {
    explore_bounded(PREEMPTIONS_OF_MANY, [late_push_down::<X86>, late_push_down::<Arm>]);
}

#[test]
fn settling_back_loses_a_write() {
    must_object(Break::SettleBack, [late_push_down::<X86>, late_push_down::<Arm>]);
}

/// A fault that passed the root before it closed opens a leaf while a push-down settles its table.
fn settle_against_opening<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.map(0);
    world.store(1, 1, 1);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        let copied = Copied::default().round(&migration, Protect::Nothing);
        migration.store(1, 1, 2);
        copied
    });
    world.begin();
    world.store(0, 0, 1);
    let copied = migration.join().expect("no panic").round(&world, Protect::Nothing);
    world.store(1, 1, 3);
    world.store(0, 0, 2);
    copied.finish(&world, Protect::Nothing);
}

#[test]
fn a_leaf_that_opens_during_a_settle_is_covered() {
    explore([settle_against_opening::<X86>, settle_against_opening::<Arm>]);
}

#[test]
fn clearing_before_taking_the_set_out_loses_a_write() {
    must_object(Break::ClearFirst, [settle_against_opening::<X86>, settle_against_opening::<Arm>]);
}

/// Logging starts while a push-down settles the table: the set that starting goes by is out, and
/// the entries are not closed yet.
fn settle_against_start<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.mmu.stop_log(SLOT).expect("it was on");
    world.store(0, 0, 1);
    world.store(1, 1, 1);
    world.mmu.write_protect_all();
    let migration = world.clone();
    let migration = thread::spawn(move || {
        migration.mmu.start_log(SLOT, Initial::Clean).expect("memory");
        Copied::whole(&migration)
    });
    world.begin();
    world.store(1, 1, 2);
    world.store(0, 0, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_log_that_starts_during_a_settle_misses_nothing() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [settle_against_start::<X86>, settle_against_start::<Arm>],
    );
}

#[test]
fn a_log_that_starts_without_its_shoot_down_misses_a_write() {
    must_object(Break::SkipFlush, [settle_against_start::<X86>, settle_against_start::<Arm>]);
}
