//! Slot changes against faults: tables outlive their readers.

use crate::tiny::{Arm, X86};
use crate::world::{SLOT, World};
use crate::{Plan, explore, must_object};
use loom::thread;
use vellum_mmu::{Break, Outcome};
use vellum_pte::Format;

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
