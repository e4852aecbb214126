//! Manual protect: reading the log, and clearing it range by range, against stores, harvests and
//! other clears.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, World};
use crate::{Plan, explore, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Protect};
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Gpa};

const ALL: u64 = u64::MAX;

/// Two pages of one word, written.
fn written<F: Format>(plan: Plan) -> Arc<World<F>> {
    let world = World::<F>::new(plan);
    world.store(0, 0, 1);
    world.store(0, 1, 1);
    world
}

/// A consumer reads the log, clears one page and copies it, while a vCPU stores to both.
fn store_against_clear<F: Format>(plan: Plan) {
    let world = written::<F>(plan);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        assert_eq!(migration.read_dirty(), [0, 1]);
        let cleared = migration.clear(0b01);
        Copied::default().pages(&migration, cleared)
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(0, 1, 2);
    let copied = migration.join().expect("no panic");
    let cleared = world.clear(ALL);
    copied.pages(&world, cleared).finish(&world, Protect::Pages);
}

#[test]
fn a_store_is_in_what_a_clear_takes_or_in_a_later_one() {
    explore([store_against_clear::<X86>, store_against_clear::<Arm>]);
}

#[test]
fn a_clear_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [store_against_clear::<X86>, store_against_clear::<Arm>]);
}

#[test]
fn a_clear_that_takes_more_loses_a_write() {
    must_object(Break::ClearMore, [store_against_clear::<X86>, store_against_clear::<Arm>]);
}

/// The only page of a word that is dirty, by a device, is cleared while a vCPU opens it and its
/// neighbour.
fn store_against_last_clear<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.map(0);
    world.map(1);
    world
        .mmu
        .guest_writer(vellum_mmu::Origin::Device)
        .write(AddressSpace::NORMAL, Gpa::new(0), &[1])
        .expect("memory");
    let migration = world.clone();
    let migration = thread::spawn(move || {
        let cleared = migration.clear(0b01);
        Copied::default().pages(&migration, cleared)
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(0, 1, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_clear_that_empties_a_word_hides_no_store() {
    explore([store_against_last_clear::<X86>, store_against_last_clear::<Arm>]);
}

#[test]
fn emptying_a_word_blindly_loses_a_write() {
    must_object(
        Break::LowerBlindly,
        [store_against_last_clear::<X86>, store_against_last_clear::<Arm>],
    );
}

#[test]
fn marking_before_opening_loses_a_write_to_a_clear() {
    must_object(
        Break::MarkEarly,
        [store_against_last_clear::<X86>, store_against_last_clear::<Arm>],
    );
}

/// The guest is paused and the last harvest made while a clear of another page is under way.
fn last_harvest_against_clear<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.store(0, 0, 1);
    let other = world.clone();
    let other = thread::spawn(move || other.clear(0b01));
    world.begin();
    world.store(0, 1, 2);
    assert!(world.harvest(Protect::Pages).contains(&1), "a write was lost");
    other.join().expect("no panic");
}

#[test]
fn the_last_harvest_finds_all_while_a_clear_is_under_way() {
    explore([last_harvest_against_clear::<X86>, last_harvest_against_clear::<Arm>]);
}

#[test]
fn lowering_under_the_last_harvest_loses_a_write() {
    must_object(
        Break::LowerUnderScan,
        [last_harvest_against_clear::<X86>, last_harvest_against_clear::<Arm>],
    );
}

/// A clear finds a page read-only that another has protected and not yet shot down.
fn clear_against_unpaid_clear<F: Format>(plan: Plan) {
    let world = World::<F>::new(plan);
    world.store(0, 0, 1);
    let other = world.clone();
    let other = thread::spawn(move || drop(other.clear(ALL)));
    world.begin();
    // A device writes to the page, so that this clear finds it too.
    world
        .mmu
        .guest_writer(vellum_mmu::Origin::Device)
        .write(AddressSpace::NORMAL, Gpa::new(0), &[2])
        .expect("memory");
    if world.clear(ALL).contains(&0) {
        assert!(!world.try_store(0, 0, 3), "a store after the clear retires unseen");
    }
    other.join().expect("no panic");
}

#[test]
fn a_clear_pays_for_anothers_shoot_down() {
    explore([clear_against_unpaid_clear::<X86>, clear_against_unpaid_clear::<Arm>]);
}

#[test]
fn a_clear_that_ignores_anothers_debt_lets_a_store_through() {
    must_object(
        Break::IgnoreDebt,
        [clear_against_unpaid_clear::<X86>, clear_against_unpaid_clear::<Arm>],
    );
}

/// The guest forgets one page while it stores to another, and then uses the first again.
fn forget_against_store<F: Format>(plan: Plan) {
    let world = written::<F>(plan);
    let copied = Copied::whole(&world);
    let balloon = world.clone();
    let balloon = thread::spawn(move || {
        let range = GfnRange::new(Gfn::new(0), 1).expect("in range");
        balloon.mmu.forget(AddressSpace::NORMAL, range);
        balloon.store(0, 0, 2);
    });
    world.begin();
    world.store(1, 1, 2);
    let copied = copied.round(&world, Protect::Pages);
    balloon.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_page_that_was_forgotten_is_logged_again() {
    explore([forget_against_store::<X86>, forget_against_store::<Arm>]);
}

#[test]
fn forgetting_without_a_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [forget_against_store::<X86>, forget_against_store::<Arm>]);
}
