//! Slot changes against faults: tables outlive their readers.

use crate::hardware::{SLOT, World, spec};
use crate::{Plan, explore, must_object};
use loom::thread;
use vellum_mmu::{Break, Outcome};

/// A slot goes while a vCPU faults on it and walks its tables.
fn delete_against_fault(plan: Plan) {
    let world = World::new(plan);
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
    explore(delete_against_fault);
}

#[test]
fn freeing_before_readers_have_left_is_seen() {
    must_object(Break::FreeEarly, delete_against_fault);
}

/// A slot comes where another has gone whose shoot-down is still on its way. Once it is there, no
/// store lands by a translation of the old one.
fn create_against_unpaid_shoot_down(plan: Plan) {
    let world = World::new(plan);
    world.store(0, 0, 1);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.mmu.delete_slot(SLOT).expect("it is there"));
    world.begin();
    if world.mmu.create_slot(spec()).is_ok() {
        assert!(!world.try_store(0, 0, 3), "a store by a translation of the slot before");
    }
    owner.join().expect("no panic");
}

#[test]
fn a_new_slot_pays_for_the_old_ones_shoot_down() {
    explore(create_against_unpaid_shoot_down);
}

#[test]
fn ignoring_the_old_slots_debt_lets_a_store_through() {
    must_object(Break::IgnoreDebt, create_against_unpaid_shoot_down);
}
