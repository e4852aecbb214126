//! Pages that come to be tracked, or are tracked no more: against faults, harvests and huge leaves.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, SLOT, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Initial, Outcome, Protect};
use vellum_pte::{Format, Level};

fn world<F: Format>(plan: Plan, guest: Guest) -> Arc<World<F>> {
    let world = World::of(plan, guest);
    world.mmu.enable_tracking().expect("outside of a slot change");
    world
}

/// Tracks page 0, and says what is in it then.
fn track<F: Format>(world: &World<F>) -> u64 {
    world.track(0);
    world.hardware.read(0)
}

/// Nobody has stored to page 0 since it was tracked, and nobody can.
fn is_left_alone<F: Format>(world: &World<F>, left: u64) {
    let now = world.hardware.read(0);
    assert_eq!(now, left, "a store landed after its page was tracked");
    for cpu in [0, 1] {
        let outcome = world.store_if_there(cpu, 0, 9);
        assert_eq!(outcome, Outcome::Emulate, "a store landed after its page was tracked");
    }
}

/// A page comes to be tracked while two vCPUs store to it, one after the other.
fn fault_against_track<F: Format>(plan: Plan, guest: Guest, prepare: fn(&World<F>)) {
    let world = world::<F>(plan, guest);
    prepare(&world);
    let owner = world.clone();
    let owner = thread::spawn(move || track(&owner));
    world.begin();
    for cpu in [0, 1] {
        let outcome = world.store_if_there(cpu, 0, 2 + cpu as u64);
        assert!(matches!(outcome, Outcome::Mapped | Outcome::Emulate), "{outcome:?}");
    }
    let left = owner.join().expect("no panic");
    is_left_alone(&world, left);
    world.store(1, 1, 4);
}

fn absent<F: Format>(plan: Plan) {
    fault_against_track::<F>(plan, Guest::LOGGED, |_| {});
}

fn read_only<F: Format>(plan: Plan) {
    fault_against_track::<F>(plan, Guest::LOGGED, |world| world.map(0));
}

fn writable<F: Format>(plan: Plan) {
    fault_against_track::<F>(plan, Guest::LOGGED, |world| world.store(0, 0, 1));
}

fn absent_huge<F: Format>(plan: Plan) {
    fault_against_track::<F>(plan, Guest::HUGE, |_| {});
}

fn huge<F: Format>(plan: Plan) {
    fault_against_track::<F>(plan, Guest::HUGE, |world| world.store(0, 1, 1));
}

fn huge_and_logged<F: Format>(plan: Plan) {
    fault_against_track::<F>(plan, Guest::HUGE, |world| {
        world.store(0, 1, 1);
        world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    });
}

#[test]
fn no_store_passes_a_page_that_has_come_to_be_tracked() {
    explore([absent::<X86>, absent::<Arm>]);
    explore([read_only::<X86>, read_only::<Arm>]);
    explore([writable::<X86>, writable::<Arm>]);
}

#[test]
fn no_store_passes_a_huge_leaf_over_a_page_that_has_come_to_be_tracked() {
    explore([absent_huge::<X86>, absent_huge::<Arm>]);
    explore([huge::<X86>, huge::<Arm>]);
    explore([huge_and_logged::<X86>, huge_and_logged::<Arm>]);
}

#[test]
fn denying_a_page_before_it_counts_as_tracked_lets_a_store_through() {
    must_object(Break::ForbidEarly, [read_only::<X86>, read_only::<Arm>]);
    must_object(Break::ForbidEarly, [writable::<X86>, writable::<Arm>]);
    // Where hardware asks for break-before-make, nothing is mapped before the shoot-down anyway.
    must_object(Break::ForbidEarly, [absent::<X86>, absent_huge::<X86>, huge::<X86>]);
}

#[test]
fn tracking_without_a_shoot_down_lets_a_store_through() {
    must_object(Break::SkipFlush, [writable::<X86>, writable::<Arm>]);
    must_object(Break::SkipFlush, [huge::<X86>, huge::<Arm>]);
}

/// A harvest has closed the page and not shot down yet.
fn track_against_unpaid_shoot_down<F: Format>(plan: Plan) {
    let world = world::<F>(plan, Guest::LOGGED);
    world.store(0, 0, 1);
    let other = world.clone();
    let other = thread::spawn(move || drop(other.harvest(Protect::Pages)));
    world.begin();
    world.track(0);
    assert!(!world.try_store(0, 0, 2), "a store landed after its page was tracked");
    other.join().expect("no panic");
}

#[test]
fn tracking_pays_for_anothers_shoot_down() {
    explore([track_against_unpaid_shoot_down::<X86>, track_against_unpaid_shoot_down::<Arm>]);
}

#[test]
fn tracking_that_ignores_anothers_debt_lets_a_store_through() {
    must_object(
        Break::IgnoreDebt,
        [track_against_unpaid_shoot_down::<X86>, track_against_unpaid_shoot_down::<Arm>],
    );
}

/// A page is tracked no more and written, while somebody harvests.
fn untrack_against_harvest<F: Format>(plan: Plan, protect: Protect) {
    let world = world::<F>(plan, Guest::LOGGED);
    world.store(0, 0, 1);
    world.track(0);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, protect));
    world.begin();
    world.untrack(0);
    world.store(0, 0, 2);
    world.store(0, 0, 3);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, protect);
}

fn by_pages<F: Format>(plan: Plan) {
    untrack_against_harvest::<F>(plan, Protect::Pages);
}

fn by_protect_all<F: Format>(plan: Plan) {
    untrack_against_harvest::<F>(plan, Protect::Nothing);
}

#[test]
fn a_page_that_is_tracked_no_more_is_written_and_logged() {
    explore([by_pages::<X86>, by_pages::<Arm>]);
    explore([by_protect_all::<X86>, by_protect_all::<Arm>]);
}

#[test]
fn marking_such_a_page_before_opening_it_loses_a_write() {
    must_object(Break::MarkEarly, [by_pages::<X86>, by_pages::<Arm>]);
}

#[test]
fn a_harvest_of_such_a_page_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [by_pages::<X86>, by_protect_all::<Arm>]);
}

/// Two track a page, and one of them stops, while a vCPU stores.
fn two_trackers<F: Format>(plan: Plan) {
    let world = world::<F>(plan, Guest::LOGGED);
    world.store(0, 0, 1);
    let other = world.clone();
    let other = thread::spawn(move || {
        other.track(0);
        other.untrack(0);
    });
    world.begin();
    let left = track(&world);
    let _ = world.store_if_there(0, 0, 2);
    other.join().expect("no panic");
    is_left_alone(&world, left);
}

#[test]
fn one_who_stops_tracking_ends_it_for_nobody_else() {
    explore([two_trackers::<X86>, two_trackers::<Arm>]);
}

/// A page comes to be tracked while a vCPU maps what is around it.
fn neighbour_against_track<F: Format>(plan: Plan) {
    let world = world::<F>(plan, Guest::HUGE);
    let owner = world.clone();
    let owner = thread::spawn(move || track(&owner));
    world.begin();
    world.store(1, 1, 2);
    world.store(1, 1, 3);
    let left = owner.join().expect("no panic");
    world.store(1, 1, 4);
    is_left_alone(&world, left);
}

#[test]
fn no_huge_leaf_comes_over_a_tracked_page() {
    explore([neighbour_against_track::<X86>, neighbour_against_track::<Arm>]);
}

#[test]
fn a_huge_leaf_over_a_tracked_page_lets_a_store_through() {
    must_object(
        Break::IgnoreVeto,
        [neighbour_against_track::<X86>, neighbour_against_track::<Arm>],
    );
}

/// A huge leaf comes back where a page comes to be tracked.
fn recover_against_track<F: Format>(plan: Plan) {
    let world = world::<F>(plan, Guest::HUGE);
    world.hardware.allow_leaves(Level::L1);
    world.store(0, 0, 1);
    world.hardware.allow_leaves(Level::L2);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.mmu.recover_huge(SLOT).expect("it is there"));
    world.begin();
    let left = track(&world);
    let _ = world.store_if_there(0, 0, 2);
    owner.join().expect("no panic");
    world.store(1, 1, 3);
    is_left_alone(&world, left);
}

#[test]
fn a_huge_leaf_does_not_come_back_over_a_tracked_page() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [recover_against_track::<X86>, recover_against_track::<Arm>],
    );
}

#[test]
fn one_that_comes_back_over_a_tracked_page_lets_a_store_through() {
    must_object(Break::IgnoreVeto, [recover_against_track::<X86>, recover_against_track::<Arm>]);
    must_object(
        Break::RecoverBlindly,
        [recover_against_track::<X86>, recover_against_track::<Arm>],
    );
}
