//! Memory that is given away: against faults that have asked for it before, against splits, and
//! against other invalidations.

use crate::hardware::Backed;
use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, SLOT, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Initial, Protect};
use vellum_pte::{Format, Level};

const LOGGED: Guest = Guest { backed: Backed::Changing, ..Guest::LOGGED };
const HUGE: Guest = Guest { backed: Backed::Changing, ..Guest::HUGE };

/// What a store may not reach any more.
struct Gone {
    page: usize,
    left: u64,
}

/// Gives pages from the first on away.
fn give_away<F: Format>(world: &World<F>, pages: usize) -> Gone {
    Gone { page: 0, left: world.give_away(0, pages) }
}

impl Gone {
    fn is_left_alone<F: Format>(&self, world: &World<F>) {
        let now = world.hardware.read_at(self.page);
        assert_eq!(now, self.left, "a store landed after its memory was given away");
    }
}

/// A page is given away while a store faults on it for the first time.
fn fault_against_invalidation<F: Format>(plan: Plan, prepare: fn(&World<F>)) {
    let world = World::<F>::of(plan, LOGGED);
    prepare(&world);
    let owner = world.clone();
    let owner = thread::spawn(move || give_away(&owner, 2));
    world.begin();
    world.store(0, 0, 2);
    let gone = owner.join().expect("no panic");
    gone.is_left_alone(&world);
    Copied::default().finish(&world, Protect::Pages);
    assert_eq!(world.hardware.read(0), 2, "a write was lost");
}

fn without_a_table<F: Format>(plan: Plan) {
    fault_against_invalidation::<F>(plan, |_| {});
}

fn with_a_table<F: Format>(plan: Plan) {
    fault_against_invalidation::<F>(plan, |world| world.map(1));
}

fn with_a_leaf<F: Format>(plan: Plan) {
    fault_against_invalidation::<F>(plan, |world| world.store(1, 0, 1));
}

#[test]
fn a_fault_does_not_map_memory_that_was_given_away() {
    explore([without_a_table::<X86>, without_a_table::<Arm>]);
    explore([with_a_table::<X86>, with_a_table::<Arm>]);
    explore([with_a_leaf::<X86>, with_a_leaf::<Arm>]);
}

#[test]
fn trusting_an_old_answer_reaches_memory_that_was_given_away() {
    must_object(Break::TrustBacking, [without_a_table::<X86>, without_a_table::<Arm>]);
    must_object(Break::TrustBacking, [with_a_table::<X86>, with_a_table::<Arm>]);
}

#[test]
fn an_invalidation_without_its_shoot_down_lets_a_store_through() {
    must_object(Break::SkipFlush, [with_a_leaf::<X86>, with_a_leaf::<Arm>]);
}

/// The same where a huge leaf comes.
fn huge_fault_against_invalidation<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, HUGE);
    let owner = world.clone();
    let owner = thread::spawn(move || give_away(&owner, 1));
    world.begin();
    world.store(0, 0, 2);
    owner.join().expect("no panic").is_left_alone(&world);
    assert_eq!(world.hardware.read(0), 2, "a write was lost");
}

#[test]
fn a_huge_leaf_does_not_map_memory_that_was_given_away() {
    explore([huge_fault_against_invalidation::<X86>, huge_fault_against_invalidation::<Arm>]);
}

#[test]
fn trusting_an_old_answer_for_a_huge_leaf_reaches_it() {
    must_object(
        Break::TrustBacking,
        [huge_fault_against_invalidation::<X86>, huge_fault_against_invalidation::<Arm>],
    );
}

/// A logged huge leaf's memory is given away while the first write splits it.
fn split_against_invalidation<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, HUGE);
    world.store(0, 0, 1);
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let owner = world.clone();
    let owner = thread::spawn(move || give_away(&owner, 2));
    world.begin();
    world.store(0, 0, 2);
    owner.join().expect("no panic").is_left_alone(&world);
    assert_eq!(world.hardware.read(0), 2, "a write was lost");
    assert_eq!(world.harvest(Protect::Pages), [0], "a write was lost");
}

#[test]
fn a_split_does_not_bring_back_memory_that_was_given_away() {
    explore([split_against_invalidation::<X86>, split_against_invalidation::<Arm>]);
}

#[test]
fn thawing_what_was_cleared_meanwhile_reaches_it() {
    must_object(Break::ThawBlindly, [split_against_invalidation::<Arm>]);
}

/// A huge leaf goes with one of its pages while another page of it is mapped again, by a small leaf,
/// and a processor that has the huge one looks at the tables.
fn smaller_leaf_against_invalidation<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, Guest::HUGE);
    world.store(1, 1, 1);
    world.hardware.allow_leaves(Level::L1);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.touch_backing(1));
    world.begin();
    world.store(0, 0, 2);
    world.prefetch(1, 0);
    owner.join().expect("no panic");
    assert_eq!(world.hardware.read(0), 2, "a write was lost");
}

#[test]
fn a_small_leaf_comes_after_the_shoot_down_for_a_huge_one() {
    explore([smaller_leaf_against_invalidation::<X86>, smaller_leaf_against_invalidation::<Arm>]);
}

#[test]
fn mapping_before_that_shows_both_sizes() {
    must_object(Break::MapUnbroken, [smaller_leaf_against_invalidation::<Arm>]);
}

/// One invalidation begins and ends while another is under way, and then a store comes.
fn two_invalidations<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, LOGGED);
    world.map(1);
    let owner = world.clone();
    let owner = thread::spawn(move || give_away(&owner, 2));
    world.begin();
    world.touch_backing(0);
    world.store(0, 0, 2);
    owner.join().expect("no panic").is_left_alone(&world);
    assert_eq!(world.hardware.read(0), 2, "a write was lost");
}

#[test]
fn an_invalidation_that_ends_ends_no_other() {
    explore_bounded(PREEMPTIONS_OF_MANY, [two_invalidations::<X86>, two_invalidations::<Arm>]);
}

#[test]
fn ending_them_all_at_once_maps_memory_that_goes() {
    must_object(Break::EndForAll, [two_invalidations::<X86>, two_invalidations::<Arm>]);
}

/// An invalidation finds the page unmapped by another that has not shot down yet.
fn unpaid_invalidation<F: Format>(plan: Plan) {
    let world = World::<F>::of(plan, LOGGED);
    world.store(0, 0, 1);
    let other = world.clone();
    let other = thread::spawn(move || other.touch_backing(0));
    world.begin();
    let gone = give_away(&world, 1);
    world.store(0, 0, 2);
    other.join().expect("no panic");
    gone.is_left_alone(&world);
}

#[test]
fn an_invalidation_pays_for_anothers_shoot_down() {
    explore([unpaid_invalidation::<X86>, unpaid_invalidation::<Arm>]);
}

#[test]
fn ignoring_anothers_debt_reaches_memory_that_was_given_away() {
    must_object(Break::IgnoreDebt, [unpaid_invalidation::<X86>, unpaid_invalidation::<Arm>]);
}

/// Memory is given away while somebody harvests what was written there.
fn harvest_against_invalidation<F: Format>(plan: Plan) {
    let world: Arc<World<F>> = World::of(plan, LOGGED);
    world.store(0, 0, 1);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, Protect::Pages));
    world.begin();
    let gone = give_away(&world, 2);
    world.store(0, 0, 3);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
    gone.is_left_alone(&world);
}

#[test]
fn the_log_stays_when_memory_is_given_away() {
    explore([harvest_against_invalidation::<X86>, harvest_against_invalidation::<Arm>]);
}
