//! Write-protect-all over several roots: those of two address spaces, and two side by side. Where a
//! format has no such roots, the wide guest has three levels.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, Shape, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::thread;
use vellum_mmu::{Break, Protect};
use vellum_pte::Format;

/// A page in each half of a guest, written by one vCPU each.
fn halves<F: Format>(plan: Plan, shape: Shape) -> Arc<World<F>> {
    let world = World::<F>::of(plan, Guest { shape, ..Guest::LOGGED });
    world.store(0, 0, 1);
    world.store(1, 4, 1);
    world
}

/// The roots are settled one after the other while both halves are written.
fn stores_against_protect_all<F: Format>(plan: Plan, shape: Shape) {
    let world = halves::<F>(plan, shape);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, Protect::Nothing));
    world.begin();
    world.store(0, 0, 2);
    world.store(1, 4, 2);
    world.store(0, 0, 3);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

fn two_spaces<F: Format>(plan: Plan) {
    stores_against_protect_all::<F>(plan, Shape::TwoSpaces);
}

fn wide<F: Format>(plan: Plan) {
    stores_against_protect_all::<F>(plan, Shape::Wide);
}

#[test]
fn protect_all_reaches_both_address_spaces() {
    explore([two_spaces::<X86>, two_spaces::<Arm>]);
}

#[test]
fn protect_all_reaches_roots_side_by_side_and_three_levels() {
    explore([wide::<X86>, wide::<Arm>]);
}

#[test]
fn settling_one_root_loses_a_write() {
    must_object(Break::OneRoot, [two_spaces::<X86>, two_spaces::<Arm>, wide::<Arm>]);
}

/// Two push-downs of both halves while a new generation comes over them, root by root.
fn push_downs_against_protect_all<F: Format>(plan: Plan, shape: Shape) {
    let world = halves::<F>(plan, shape);
    let copied = Copied::default().round(&world, Protect::Nothing);
    let guest = world.clone();
    let guest = thread::spawn(move || {
        guest.store(0, 0, 2);
        guest.store(1, 4, 2);
    });
    world.begin();
    let copied = copied.round(&world, Protect::Nothing);
    world.store(1, 5, 2);
    guest.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

fn two_spaces_down<F: Format>(plan: Plan) {
    push_downs_against_protect_all::<F>(plan, Shape::TwoSpaces);
}

fn wide_down<F: Format>(plan: Plan) {
    push_downs_against_protect_all::<F>(plan, Shape::Wide);
}

#[test]
fn push_downs_between_two_generations_lose_nothing() {
    explore_bounded(PREEMPTIONS_OF_MANY, [two_spaces_down::<X86>, two_spaces_down::<Arm>]);
}

#[test]
fn push_downs_below_many_roots_lose_nothing() {
    explore_bounded(PREEMPTIONS_OF_MANY, [wide_down::<X86>, wide_down::<Arm>]);
}

#[test]
fn opening_above_before_settling_below_loses_a_write_there_too() {
    must_object(Break::LateSettle, [wide_down::<X86>, wide_down::<Arm>]);
}
