//! Slot changes against faults: tables outlive their readers.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, SLOT, Shape, World};
use crate::{Plan, explore, must_object};
use loom::thread;
use vellum_mmu::{Break, Initial, LogMode, Outcome, Protect, SlotSpec};
use vellum_pte::{Format, Gfn, GfnRange};

/// A slot goes while a vCPU faults on it and walks its tables.
fn delete_against_fault<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.delete_slot(SLOT).expect("it is there");
        owner.hardware.read(0)
    });
    world.begin();
    let outcome = world.store_if_there(0, 0, 1);
    let after_return = owner.join().expect("no panic");
    assert!(matches!(outcome, Outcome::Mapped | Outcome::Mmio));
    assert_eq!(after_return, world.hardware.read(0), "a store landed after the slot was gone");
}

#[test]
fn a_table_outlives_its_readers() {
    explore([delete_against_fault::<X86>, delete_against_fault::<Arm>]);
}

#[test]
fn freeing_before_readers_have_left_is_seen() {
    must_object(Break::FreeEarly, [delete_against_fault::<X86>, delete_against_fault::<Arm>]);
}

/// A slot goes while the first logged write to it splits a huge leaf.
fn delete_against_split<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, Guest::HUGE);
    world.store(0, 0, 1);
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.delete_slot(SLOT).expect("it is there");
        owner.hardware.read(0)
    });
    world.begin();
    let outcome = world.store_if_there(0, 0, 2);
    let after_return = owner.join().expect("no panic");
    assert!(matches!(outcome, Outcome::Mapped | Outcome::Mmio));
    assert_eq!(after_return, world.hardware.read(0), "a store landed after the slot was gone");
    assert!(world.load_if_there(0, 1).is_none(), "a load by a translation of the slot before");
}

#[test]
fn a_split_brings_back_no_slot_that_is_gone() {
    explore([delete_against_split::<X86>, delete_against_split::<Arm>]);
}

#[test]
fn thawing_where_a_slot_has_gone_is_seen() {
    must_object(Break::ThawBlindly, [delete_against_split::<Arm>]);
}

/// A slot comes where another has gone whose shoot-down is still on its way. Once it is there, no
/// store lands by a translation of the old one.
fn create_against_unpaid_shoot_down<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.store(0, 0, 1);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.mmu.delete_slot(SLOT).expect("it is there"));
    world.begin();
    if world.mmu.create_slot(world.slots[0]).is_ok() {
        assert!(!world.try_store(0, 0, 3), "a store by a translation of the slot before");
    }
    owner.join().expect("no panic");
}

#[test]
fn a_new_slot_pays_for_the_old_ones_shoot_down() {
    explore([create_against_unpaid_shoot_down::<X86>, create_against_unpaid_shoot_down::<Arm>]);
}

#[test]
fn ignoring_the_old_slots_debt_lets_a_store_through() {
    must_object(
        Break::IgnoreDebt,
        [create_against_unpaid_shoot_down::<X86>, create_against_unpaid_shoot_down::<Arm>],
    );
}

const HALF: Guest = Guest { shape: Shape::Half, ..Guest::LOGGED };

/// The slot two pages further on.
fn moved<F: Format>(world: &World<F>) -> SlotSpec {
    let range = GfnRange::new(Gfn::new(2), 2).expect("in range");
    SlotSpec { range, log: LogMode::On, ..world.slots[0] }
}

/// A slot moves while a vCPU stores where it was.
fn move_against_store<F: Format>(plan: Plan, known: usize) {
    let world = World::<F>::of(plan, HALF);
    world.store(0, known, 1);
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.change_slot(moved(&owner)).expect("it is there");
        owner.hardware.read(0)
    });
    world.begin();
    let outcome = world.store_if_there(0, 0, 2);
    let after_return = owner.join().expect("no panic");
    assert!(matches!(outcome, Outcome::Mapped | Outcome::Mmio));
    let now = world.hardware.read(0);
    assert_eq!(after_return, now, "a store landed after the slot had moved");
    Copied::default().finish(&world, Protect::Pages);
}

/// Through a translation that it has.
fn move_against_hot_store<F: Format>(plan: Plan) {
    move_against_store::<F>(plan, 0);
}

/// By a fault.
fn move_against_cold_store<F: Format>(plan: Plan) {
    move_against_store::<F>(plan, 1);
}

#[test]
fn a_slot_that_moves_takes_its_log_along() {
    explore([move_against_hot_store::<X86>, move_against_hot_store::<Arm>]);
    explore([move_against_cold_store::<X86>, move_against_cold_store::<Arm>]);
}

#[test]
fn moving_without_a_shoot_down_lets_a_store_through() {
    must_object(Break::SkipFlush, [move_against_hot_store::<X86>, move_against_hot_store::<Arm>]);
}

#[test]
fn moving_before_faults_have_left_is_seen() {
    must_object(Break::FreeEarly, [move_against_cold_store::<X86>, move_against_cold_store::<Arm>]);
}

/// The same with a store where it goes to, and a harvest.
fn move_against_harvest<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, HALF);
    world.store(0, 0, 1);
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.change_slot(moved(&owner)).expect("it is there");
        owner.store(1, 2, 2);
    });
    world.begin();
    let copied = Copied::default().round(&world, Protect::Pages);
    owner.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_harvest_of_a_slot_that_moves_loses_nothing() {
    explore([move_against_harvest::<X86>, move_against_harvest::<Arm>]);
}

/// A slot moves and its log starts in one go.
fn move_and_start_against_store<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, Guest { log: LogMode::Off, ..HALF });
    world.store(0, 0, 1);
    let owner = world.clone();
    let owner = thread::spawn(move || {
        owner.mmu.change_slot(moved(&owner)).expect("it is there");
        Copied::whole(&owner)
    });
    world.begin();
    let _ = world.store_if_there(0, 0, 2);
    let _ = world.store_if_there(0, 2, 3);
    let copied = owner.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_slot_that_moves_and_is_logged_from_then_on_misses_nothing() {
    explore([move_and_start_against_store::<X86>, move_and_start_against_store::<Arm>]);
}
