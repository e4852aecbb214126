//! Maps of sub-pages that change, against stores, misses and emulated writes.

use crate::tiny::{Arm, X86};
use crate::tlb::Place;
use crate::world::{Copied, Guest, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Outcome, Protect, WriteError};
use vellum_pte::{Format, SubPageMap};

const FIRST: SubPageMap = SubPageMap::new(0b01);
const SECOND: SubPageMap = SubPageMap::new(0b10);

fn world<F: Format>(plan: Plan, map: SubPageMap) -> Arc<World<F>> {
    let world = World::of(plan, Guest::RESTRICTED);
    world.restrict(0, map);
    world
}

/// Gives page 0 a map that denies its first sub-page, and says what is in it then.
fn deny<F: Format>(world: &World<F>) -> u64 {
    world.restrict(0, SECOND);
    world.hardware.read(0)
}

/// Nobody has stored to the first sub-page since, and nobody can; the second may be written.
fn is_left_alone<F: Format>(world: &World<F>, left: u64) {
    let now = world.hardware.read(0);
    assert_eq!(now, left, "a store landed after its map denied it");
    let second = world.store_at(1, Place { page: 0, sub_page: 1 }, 8);
    assert!(matches!(second, Outcome::Mapped | Outcome::Emulate), "{second:?}");
    for cpu in [0, 1] {
        let first = world.store_or_emulate(cpu, 0, 9);
        assert!(matches!(first, Outcome::Denied(_)), "a store landed after its map denied it");
    }
}

/// A map changes while two vCPUs store, one after the other.
fn store_against_map<F: Format>(plan: Plan, prepare: fn(&World<F>)) {
    let world = world::<F>(plan, FIRST);
    prepare(&world);
    let owner = world.clone();
    let owner = thread::spawn(move || deny(&owner));
    world.begin();
    for (cpu, value) in [(0, 2), (1, 3)] {
        let outcome = world.store_or_emulate(cpu, 0, value);
        assert!(matches!(outcome, Outcome::Mapped | Outcome::Denied(_)), "{outcome:?}");
    }
    let left = owner.join().expect("no panic");
    is_left_alone(&world, left);
}

fn absent<F: Format>(plan: Plan) {
    store_against_map::<F>(plan, |_| {});
}

fn cached<F: Format>(plan: Plan) {
    store_against_map::<F>(plan, |world| {
        let _ = world.store_or_emulate(0, 0, 1);
    });
}

fn closed<F: Format>(plan: Plan) {
    store_against_map::<F>(plan, |world| {
        let _ = world.store_or_emulate(0, 0, 1);
        world.mmu.write_protect_all();
        world.load(0, 0);
    });
}

#[test]
fn no_store_lands_where_a_map_has_come_to_deny_it() {
    explore_bounded(PREEMPTIONS_OF_MANY, [absent::<X86>, absent::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [cached::<X86>, cached::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [closed::<X86>, closed::<Arm>]);
}

#[test]
fn a_map_that_does_not_reach_the_tables_lets_a_store_through() {
    must_object(Break::StaleVector, [cached::<X86>, closed::<X86>]);
}

#[test]
fn a_map_that_changes_without_a_shoot_down_lets_a_store_through() {
    must_object(Break::SkipFlush, [cached::<X86>]);
}

/// A page that was not restricted comes to be.
fn store_against_first_map<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, Guest::RESTRICTED);
    world.store(0, 0, 1);
    let owner = world.clone();
    let owner = thread::spawn(move || deny(&owner));
    world.begin();
    let _ = world.store_or_emulate(1, 0, 2);
    let left = owner.join().expect("no panic");
    is_left_alone(&world, left);
}

#[test]
fn a_page_is_denied_from_its_first_map_on() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [store_against_first_map::<X86>, store_against_first_map::<Arm>],
    );
}

#[test]
fn denying_a_page_before_its_map_is_there_lets_a_store_through() {
    must_object(
        Break::ForbidEarly,
        [store_against_first_map::<X86>, store_against_first_map::<Arm>],
    );
}

/// A map changes while a write is emulated.
fn write_against_map<F: Format>(plan: Plan) {
    let world = world::<F>(plan, FIRST);
    let device = world.clone();
    let device = thread::spawn(move || device.write(0, 2));
    world.begin();
    let left = deny(&world);
    match device.join().expect("no panic") {
        Ok(()) => assert_eq!(left, 2, "a write was lost, or landed after its map denied it"),
        Err(error) => assert!(matches!(error, WriteError::Denied(_)), "{error}"),
    }
    is_left_alone(&world, left);
}

#[test]
fn no_write_is_under_way_when_a_map_has_come_to_deny_it() {
    explore([write_against_map::<X86>, write_against_map::<Arm>]);
}

#[test]
fn a_map_that_changes_under_a_write_is_seen() {
    must_object(Break::FreeEarly, [write_against_map::<X86>, write_against_map::<Arm>]);
}

/// A map comes to permit what a vCPU stores.
fn store_against_permission<F: Format>(plan: Plan, map: SubPageMap) {
    let world = world::<F>(plan, SECOND);
    let copied = Copied::whole(&world);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.restrict(0, map));
    world.begin();
    let _ = world.store_or_emulate(0, 0, 2);
    owner.join().expect("no panic");
    assert_eq!(world.store_or_emulate(0, 0, 3), Outcome::Mapped);
    assert_eq!(world.hardware.read(0), 3, "a write was lost");
    copied.finish(&world, Protect::Pages);
}

fn partly<F: Format>(plan: Plan) {
    store_against_permission::<F>(plan, FIRST);
}

fn wholly<F: Format>(plan: Plan) {
    store_against_permission::<F>(plan, SubPageMap::ALL);
}

#[test]
fn a_store_that_was_denied_passes_when_its_map_permits_it() {
    explore_bounded(PREEMPTIONS_OF_MANY, [partly::<X86>, partly::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [wholly::<X86>, wholly::<Arm>]);
}
