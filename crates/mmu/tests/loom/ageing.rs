//! Which pages were used: against accesses, faults, harvests and splits, on hardware that sets A and
//! on hardware that does not.

use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, SLOT, World};
use crate::{Plan, explore, must_object};
use loom::thread;
use vellum_mmu::{AccessedBits, Break, Initial, Protect};
use vellum_pte::Format;

/// Two ask who was used, and a vCPU uses a page before and after. What was used before the first
/// question and what was used after it are two answers.
fn age_against_age<F: Format>(plan: Plan, accessed: AccessedBits) {
    let world = World::<F>::of(plan, Guest { accessed, ..Guest::LOGGED });
    world.load(0, 0);
    let other = world.clone();
    let other = thread::spawn(move || other.age());
    world.begin();
    let first = world.age();
    world.load(0, 0);
    let second = world.age();
    let answers = [first, second, other.join().expect("no panic")];
    let named = answers.iter().filter(|answer| answer.contains(&0)).count();
    assert!(named >= 2, "an access was lost");
}

fn ages_with_a<F: Format>(plan: Plan) {
    age_against_age::<F>(plan, AccessedBits::Set);
}

fn ages_without_a<F: Format>(plan: Plan) {
    age_against_age::<F>(plan, AccessedBits::NotSet);
}

#[test]
fn an_access_after_ageing_is_seen_by_the_next() {
    explore([ages_with_a::<X86>, ages_with_a::<Arm>]);
    explore([ages_without_a::<X86>, ages_without_a::<Arm>]);
}

#[test]
fn ageing_that_ignores_anothers_debt_loses_an_access() {
    must_object(Break::IgnoreDebt, [ages_with_a::<X86>, ages_with_a::<Arm>]);
    must_object(Break::IgnoreDebt, [ages_without_a::<X86>, ages_without_a::<Arm>]);
}

/// A vCPU uses a page while somebody asks, and after that has been answered.
fn age_against_access<F: Format>(plan: Plan, accessed: AccessedBits) {
    let world = World::<F>::of(plan, Guest { accessed, ..Guest::LOGGED });
    world.store(0, 0, 1);
    let guest = world.clone();
    let guest = thread::spawn(move || guest.store(1, 0, 2));
    world.begin();
    let first = world.age();
    world.load(0, 0);
    let second = world.age();
    guest.join().expect("no panic");
    assert!(first.contains(&0) && second.contains(&0), "an access was lost");
    Copied::default().finish(&world, Protect::Pages);
}

fn access_with_a<F: Format>(plan: Plan) {
    age_against_access::<F>(plan, AccessedBits::Set);
}

fn access_without_a<F: Format>(plan: Plan) {
    age_against_access::<F>(plan, AccessedBits::NotSet);
}

#[test]
fn ageing_and_an_access_at_once_lose_neither() {
    explore([access_with_a::<X86>, access_with_a::<Arm>]);
    explore([access_without_a::<X86>, access_without_a::<Arm>]);
}

#[test]
fn ageing_without_its_shoot_down_loses_an_access() {
    must_object(Break::SkipFlush, [access_with_a::<X86>, access_with_a::<Arm>]);
    must_object(Break::SkipFlush, [access_without_a::<X86>, access_without_a::<Arm>]);
}

/// A page ages while it is opened and harvested.
fn age_against_harvest<F: Format>(plan: Plan, accessed: AccessedBits) {
    let world = World::<F>::of(plan, Guest { accessed, ..Guest::LOGGED });
    world.map(0);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        migration.age();
        Copied::default().round(&migration, Protect::Pages)
    });
    world.begin();
    world.store(0, 0, 1);
    world.store(0, 0, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn harvest_with_a<F: Format>(plan: Plan) {
    age_against_harvest::<F>(plan, AccessedBits::Set);
}

fn harvest_without_a<F: Format>(plan: Plan) {
    age_against_harvest::<F>(plan, AccessedBits::NotSet);
}

#[test]
fn ageing_takes_nothing_from_the_log() {
    explore([harvest_with_a::<X86>, harvest_with_a::<Arm>]);
    explore([harvest_without_a::<X86>, harvest_without_a::<Arm>]);
}

/// A huge leaf ages while the first logged write splits it.
fn age_against_split<F: Format>(plan: Plan, accessed: AccessedBits) {
    let world = World::<F>::of(plan, Guest { accessed, ..Guest::HUGE });
    world.store(0, 0, 1);
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let copied = Copied::whole(&world);
    let other = world.clone();
    let other = thread::spawn(move || other.age());
    world.begin();
    world.store(0, 0, 2);
    let mut seen = other.join().expect("no panic");
    seen.extend(world.age());
    assert!(seen.contains(&0), "an access was lost");
    copied.finish(&world, Protect::Pages);
}

fn split_with_a<F: Format>(plan: Plan) {
    age_against_split::<F>(plan, AccessedBits::Set);
}

fn split_without_a<F: Format>(plan: Plan) {
    age_against_split::<F>(plan, AccessedBits::NotSet);
}

#[test]
fn ageing_and_a_split_at_once_lose_neither() {
    explore([split_with_a::<X86>, split_with_a::<Arm>]);
    explore([split_without_a::<X86>, split_without_a::<Arm>]);
}
