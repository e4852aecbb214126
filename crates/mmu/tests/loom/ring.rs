//! Dirty rings: vCPUs that fill them against consumers that harvest, reset, and only then copy.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, World};
use crate::{Plan, explore, must_object};
use loom::thread;
use vellum_mmu::{Again, Break, RingSize};
use vellum_pte::Format;

const fn with_rings_of(entries: u32) -> Guest {
    Guest { ring: Some(RingSize::tiny(entries, entries)), ..Guest::LOGGED }
}

/// Room for every page that a vCPU stores to.
const ROOMY: Guest = with_rings_of(4);
/// The second page goes to the bitmap, unless somebody has reset in between.
const CRAMPED: Guest = with_rings_of(1);

/// A vCPU stores to two pages, and to the first again, while somebody empties its ring.
fn stores_against_consumer<F: Format>(plan: Plan, guest: Guest, again: Again) {
    let world = World::<F>::of(plan, guest);
    world.map(0);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        let pages = migration.empty_rings(again);
        Copied::default().pages(&migration, pages)
    });
    world.begin();
    world.store(0, 0, 1);
    world.store(0, 1, 1);
    world.store(0, 0, 2);
    let copied = migration.join().expect("no panic");
    let pages = world.empty_rings(again);
    copied.pages(&world, pages).check(&world);
}

fn by_pages<F: Format>(plan: Plan) {
    stores_against_consumer::<F>(plan, ROOMY, Again::Pages);
}

fn by_everything<F: Format>(plan: Plan) {
    stores_against_consumer::<F>(plan, ROOMY, Again::Everything);
}

fn cramped_by_pages<F: Format>(plan: Plan) {
    stores_against_consumer::<F>(plan, CRAMPED, Again::Pages);
}

fn cramped_by_everything<F: Format>(plan: Plan) {
    stores_against_consumer::<F>(plan, CRAMPED, Again::Everything);
}

#[test]
fn a_store_is_in_the_ring_or_still_protected() {
    explore([by_pages::<X86>, by_pages::<Arm>]);
    explore([by_everything::<X86>, by_everything::<Arm>]);
}

#[test]
fn a_store_that_finds_no_room_is_in_the_bitmap() {
    explore([cramped_by_pages::<X86>, cramped_by_pages::<Arm>]);
    explore([cramped_by_everything::<X86>, cramped_by_everything::<Arm>]);
}

#[test]
fn a_ring_that_is_overrun_loses_a_write() {
    must_object(Break::OverrunRing, [cramped_by_pages::<X86>, cramped_by_pages::<Arm>]);
}

#[test]
fn resetting_what_nobody_harvested_loses_a_write() {
    must_object(Break::ResetUnharvested, [by_pages::<X86>, by_pages::<Arm>]);
    must_object(Break::ResetUnharvested, [by_everything::<X86>, by_everything::<Arm>]);
}

#[test]
fn a_reset_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [by_pages::<X86>, by_pages::<Arm>]);
    must_object(Break::SkipFlush, [by_everything::<X86>, by_everything::<Arm>]);
}

/// A consumer's reset finds that another has taken back what it harvested. When it returns, stores to
/// that page fault all the same.
fn reset_against_reset<F: Format>(plan: Plan, others: Again, mine: Again) {
    let world = World::<F>::of(plan, ROOMY);
    world.store(0, 0, 1);
    assert_eq!(world.harvest_rings(), [0], "a write was lost");
    let other = world.clone();
    let other = thread::spawn(move || other.mmu.reset_rings(others));
    world.begin();
    world.mmu.reset_rings(mine);
    assert!(!world.try_store(0, 0, 2), "a store after the reset retires unseen");
    other.join().expect("no panic");
}

fn pages_and_pages<F: Format>(plan: Plan) {
    reset_against_reset::<F>(plan, Again::Pages, Again::Pages);
}

fn everything_and_everything<F: Format>(plan: Plan) {
    reset_against_reset::<F>(plan, Again::Everything, Again::Everything);
}

fn everything_and_pages<F: Format>(plan: Plan) {
    reset_against_reset::<F>(plan, Again::Everything, Again::Pages);
}

fn pages_and_everything<F: Format>(plan: Plan) {
    reset_against_reset::<F>(plan, Again::Pages, Again::Everything);
}

#[test]
fn a_reset_answers_for_what_another_has_taken_back() {
    explore([pages_and_pages::<X86>, pages_and_pages::<Arm>]);
    explore([pages_and_everything::<X86>, pages_and_everything::<Arm>]);
    explore([everything_and_everything::<X86>, everything_and_everything::<Arm>]);
    explore([everything_and_pages::<X86>, everything_and_pages::<Arm>]);
}

#[test]
fn ignoring_anothers_reset_lets_a_store_through() {
    must_object(Break::IgnoreDebt, [pages_and_pages::<X86>, pages_and_pages::<Arm>]);
    must_object(Break::IgnoreDebt, [pages_and_everything::<X86>, pages_and_everything::<Arm>]);
    must_object(
        Break::IgnoreDebt,
        [everything_and_everything::<X86>, everything_and_everything::<Arm>],
    );
    must_object(Break::IgnoreDebt, [everything_and_pages::<X86>, everything_and_pages::<Arm>]);
}
