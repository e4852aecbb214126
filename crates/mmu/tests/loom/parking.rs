//! Parked tables: where a closed table is invalid for hardware, a read links it again and must lift
//! nothing.

use crate::protect_all::closed_world;
use crate::tiny::Arm;
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::thread;
use vellum_mmu::{Break, Protect};

/// A read links a parked table again while a store pushes it down.
fn relink_against_push_down(plan: Plan) {
    let (world, copied) = closed_world::<Arm>(plan);
    let reader = world.clone();
    let reader = thread::spawn(move || reader.load(0, 0));
    world.begin();
    world.store(1, 1, 2);
    let copied = copied.round(&world, Protect::Pages);
    world.store(1, 1, 3);
    assert_eq!(reader.join().expect("no panic"), 1);
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_read_that_links_a_parked_table_lifts_nothing() {
    explore([relink_against_push_down]);
}

#[test]
fn linking_a_parked_table_unsettled_loses_a_write() {
    must_object(Break::ReadLifts, [relink_against_push_down]);
}

/// Protection comes over a table that a read links again, and a store follows the read.
fn relink_against_protect_all(plan: Plan) {
    let (world, copied) = closed_world::<Arm>(plan);
    let guest = world.clone();
    let guest = thread::spawn(move || {
        guest.load(0, 0);
        guest.store(0, 1, 2);
        guest.load(0, 0);
        guest.store(0, 1, 3);
    });
    world.begin();
    let copied = copied.round(&world, Protect::Nothing);
    guest.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

#[test]
fn protect_all_reaches_a_table_that_a_read_links() {
    explore([relink_against_protect_all]);
}

#[test]
fn linking_it_unsettled_lets_a_store_past_protect_all() {
    must_object(Break::ReadLifts, [relink_against_protect_all]);
}

/// A read is late: while it holds a generation's number, another generation begins, is pushed down
/// by a store and harvested by pages.
fn late_relink(plan: Plan) {
    let (world, copied) = closed_world::<Arm>(plan);
    let late = world.clone();
    let late = thread::spawn(move || late.load(0, 0));
    world.begin();
    let copied = copied.round(&world, Protect::Nothing);
    world.store(1, 1, 2);
    let copied = copied.round(&world, Protect::Pages);
    world.store(1, 1, 3);
    late.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_late_read_closes_nothing_that_a_store_has_opened() {
    explore([late_relink]);
}

#[test]
fn a_late_read_that_settles_back_loses_a_write() {
    must_object(Break::SettleBack, [late_relink]);
}

/// A reader, a writer and a migration at once.
fn relink_among_three(plan: Plan) {
    let (world, copied) = closed_world::<Arm>(plan);
    let (reader, migration) = (world.clone(), world.clone());
    let reader = thread::spawn(move || reader.load(0, 0));
    let migration = thread::spawn(move || copied.round(&migration, Protect::Pages));
    world.begin();
    world.store(1, 1, 2);
    world.store(1, 1, 3);
    reader.join().expect("no panic");
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_read_a_write_and_a_harvest_of_a_parked_table_lose_nothing() {
    explore_bounded(PREEMPTIONS_OF_MANY, [relink_among_three]);
}
