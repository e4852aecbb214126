//! Leaf dirtying against harvests, and harvests against each other.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, SLOT, World};
use crate::{Plan, explore, must_object};
use loom::thread;
use vellum_mmu::{Break, Initial, Protect};
use vellum_pte::{AddressSpace, Format, Gpa};

/// A vCPU stores while somebody harvests page by page.
fn store_against_harvest<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.map(0);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, Protect::Pages));
    world.begin();
    world.store(0, 0, 1);
    world.store(0, 0, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_write_is_logged_or_still_protected() {
    explore([store_against_harvest::<X86>, store_against_harvest::<Arm>]);
}

#[test]
fn marking_before_opening_loses_a_write() {
    must_object(Break::MarkEarly, [store_against_harvest::<X86>, store_against_harvest::<Arm>]);
}

#[test]
fn a_skipped_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [store_against_harvest::<X86>, store_against_harvest::<Arm>]);
}

#[test]
fn a_dropped_bit_loses_a_write() {
    must_object(Break::DropBit, [store_against_harvest::<X86>, store_against_harvest::<Arm>]);
}

/// Logging starts while a vCPU stores to a page that was open without a log.
fn store_against_start<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.mmu.stop_log(SLOT).expect("it was on");
    world.store(0, 0, 1);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        migration.mmu.start_log(SLOT, Initial::Clean).expect("memory");
        Copied::whole(&migration)
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(0, 1, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_store_after_logging_has_started_is_logged() {
    explore([store_against_start::<X86>, store_against_start::<Arm>]);
}

#[test]
fn starting_a_log_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [store_against_start::<X86>, store_against_start::<Arm>]);
}

/// A harvest finds a page read-only that another harvest has protected and not yet shot down.
/// The next store to a page that it returned must trap all the same.
fn harvest_against_unpaid_shoot_down<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.store(0, 0, 1);
    let other = world.clone();
    let other = thread::spawn(move || drop(other.harvest(Protect::Pages)));
    world.begin();
    // A device writes to the page, so that this harvest finds it too.
    world
        .mmu
        .guest_writer(vellum_mmu::Origin::Device)
        .write(AddressSpace::NORMAL, Gpa::new(0), &[2])
        .expect("memory");
    if world.harvest(Protect::Pages).contains(&0) {
        assert!(!world.try_store(0, 0, 3), "a store after the harvest retires unseen");
    }
    other.join().expect("no panic");
}

#[test]
fn a_harvest_pays_for_anothers_shoot_down() {
    explore([harvest_against_unpaid_shoot_down::<X86>, harvest_against_unpaid_shoot_down::<Arm>]);
}

#[test]
fn ignoring_anothers_debt_lets_a_store_through() {
    must_object(
        Break::IgnoreDebt,
        [harvest_against_unpaid_shoot_down::<X86>, harvest_against_unpaid_shoot_down::<Arm>],
    );
}
