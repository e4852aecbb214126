//! Slot changes against faults: tables outlive their readers.

use crate::hardware::{SLOT, World};
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
