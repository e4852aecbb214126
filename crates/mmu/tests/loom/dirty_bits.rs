//! D bits as the log: hardware that sets them, and stores that need no fault against everything that
//! reads, clears or takes them along.

use crate::hardware::{Backed, Hardware};
use crate::tiny::{Arm, X86};
use crate::world::{Copied, Guest, SLOT, World};
use crate::{PREEMPTIONS_OF_MANY, Plan, explore, explore_bounded, must_object};
use loom::sync::Arc;
use loom::sync::atomic::Ordering;
use loom::thread;
use vellum_mmu::{Break, DirtyBits, EntryWord, Initial, Protect};
use vellum_pte::{Entry, Format, Leaf, Level, Raw};

const SCANNED: Guest = Guest { dirty_bits: DirtyBits::Scanned, ..Guest::LOGGED };
/// By page-modification logging.
const LOGGED: Guest = Guest { dirty_bits: DirtyBits::Logged, ..Guest::LOGGED };

impl<F: Format> Hardware<F> {
    pub(crate) fn sets_dirty(&self) -> bool {
        self.dirty_bits != DirtyBits::Unused
    }

    /// What a store does to its leaf: sets D with A where this hardware does so, and logs that. `None`
    /// where it faults, false where the leaf has changed.
    pub(crate) fn dirty_leaf(
        &self,
        word: &EntryWord,
        raw: Raw,
        leaf: Leaf,
        log: impl FnOnce(),
    ) -> Option<bool> {
        if leaf.dirty || !self.sets_dirty() {
            return self.use_leaf(word, raw, leaf);
        }
        let dirty = Entry::Leaf(Leaf { accessed: true, dirty: true, ..leaf });
        let dirty = F::encode(dirty, Level::L1).0;
        let set = word.compare_exchange(raw.0, dirty, Ordering::AcqRel, Ordering::Acquire);
        if set.is_ok() && self.dirty_bits == DirtyBits::Logged {
            log();
        }
        Some(set.is_ok())
    }
}

/// A page that was written: its processor remembers a set D bit.
fn written<F: Format>(plan: Plan, guest: Guest) -> Arc<World<F>> {
    let world = World::<F>::of(plan, guest);
    world.store(0, 0, 1);
    world
}

/// Stores go on while somebody harvests.
fn store_against_harvest<F: Format>(plan: Plan, guest: Guest, protect: Protect) {
    let world = written::<F>(plan, guest);
    let migration = world.clone();
    let migration = thread::spawn(move || Copied::default().round(&migration, protect));
    world.begin();
    world.store(0, 0, 2);
    world.store(0, 0, 3);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, protect);
}

fn scanned_by_pages<F: Format>(plan: Plan) {
    store_against_harvest::<F>(plan, SCANNED, Protect::Pages);
}

fn logged_by_pages<F: Format>(plan: Plan) {
    store_against_harvest::<F>(plan, LOGGED, Protect::Pages);
}

fn logged_and_closed<F: Format>(plan: Plan) {
    store_against_harvest::<F>(plan, LOGGED, Protect::Nothing);
}

#[test]
fn a_store_without_a_fault_is_in_what_a_harvest_takes_or_in_a_later_one() {
    explore([scanned_by_pages::<X86>, scanned_by_pages::<Arm>]);
}

#[test]
fn a_store_that_hardware_logs_is_in_what_a_harvest_takes_or_in_a_later_one() {
    explore([logged_by_pages::<X86>, logged_by_pages::<Arm>]);
    explore([logged_and_closed::<X86>, logged_and_closed::<Arm>]);
}

#[test]
fn clearing_dirty_bits_quietly_loses_a_write() {
    must_object(Break::ClearQuietly, [scanned_by_pages::<X86>, scanned_by_pages::<Arm>]);
}

#[test]
fn clearing_dirty_bits_without_the_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [scanned_by_pages::<X86>, scanned_by_pages::<Arm>]);
    must_object(Break::SkipFlush, [logged_by_pages::<X86>, logged_by_pages::<Arm>]);
    must_object(Break::SkipFlush, [logged_and_closed::<X86>, logged_and_closed::<Arm>]);
}

/// The log is read and everything is closed, twice, while a vCPU stores.
fn store_against_two_generations<F: Format>(plan: Plan, guest: Guest) {
    let world = written::<F>(plan, guest);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        let copied = Copied::default().round(&migration, Protect::Nothing);
        copied.round(&migration, Protect::Nothing)
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(0, 0, 3);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Nothing);
}

fn scanned_twice<F: Format>(plan: Plan) {
    store_against_two_generations::<F>(plan, SCANNED);
}

fn logged_twice<F: Format>(plan: Plan) {
    store_against_two_generations::<F>(plan, LOGGED);
}

#[test]
fn a_store_below_a_way_that_closes_twice_is_in_the_log() {
    explore_bounded(PREEMPTIONS_OF_MANY, [scanned_twice::<X86>, scanned_twice::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [logged_twice::<X86>, logged_twice::<Arm>]);
}

#[test]
fn closing_without_the_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [scanned_twice::<X86>, scanned_twice::<Arm>]);
    must_object(Break::SkipFlush, [logged_twice::<X86>, logged_twice::<Arm>]);
}

/// Two pages of one table, written and harvested, and the way to them closed.
fn closed<F: Format>(plan: Plan, guest: Guest) -> (Arc<World<F>>, Copied) {
    let world = written::<F>(plan, guest);
    world.store(1, 1, 1);
    let copied = Copied::default().round(&world, Protect::Nothing);
    (world, copied)
}

/// One vCPU opens the way, and its thread harvests then; the other stores, with a fault or without.
fn one_opens_for_another<F: Format>(plan: Plan, guest: Guest) {
    let (world, copied) = closed::<F>(plan, guest);
    let other = world.clone();
    let other = thread::spawn(move || {
        other.store(1, 1, 2);
        copied.round(&other, Protect::Pages)
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(0, 0, 3);
    let copied = other.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn scanned_opens<F: Format>(plan: Plan) {
    one_opens_for_another::<F>(plan, SCANNED);
}

fn logged_opens<F: Format>(plan: Plan) {
    one_opens_for_another::<F>(plan, LOGGED);
}

#[test]
fn a_store_through_a_way_that_another_opened_is_in_the_log() {
    explore_bounded(PREEMPTIONS_OF_MANY, [scanned_opens::<X86>, scanned_opens::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [logged_opens::<X86>, logged_opens::<Arm>]);
}

#[test]
fn forgetting_a_table_below_an_open_way_loses_a_write() {
    must_object(Break::ForgetTouched, [scanned_opens::<X86>, scanned_opens::<Arm>]);
}

/// The same with the harvest on a thread of its own: between the fault that opens the way and its mark.
fn harvest_while_one_opens<F: Format>(plan: Plan) {
    let (world, copied) = closed::<F>(plan, SCANNED);
    let (other, migration) = (world.clone(), world.clone());
    let other = thread::spawn(move || other.store(1, 1, 2));
    let migration = thread::spawn(move || copied.round(&migration, Protect::Pages));
    world.begin();
    world.store(0, 0, 2);
    other.join().expect("no panic");
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_harvest_while_a_way_opens_misses_no_store() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [harvest_while_one_opens::<X86>, harvest_while_one_opens::<Arm>],
    );
}

/// A page's leaf goes while a vCPU stores and somebody harvests.
fn harvest_against_invalidation<F: Format>(plan: Plan, guest: Guest) {
    let world = written::<F>(plan, guest);
    let copied = Copied::default().round(&world, Protect::Pages);
    world.store(0, 0, 2);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.touch_backing(0));
    world.begin();
    world.store(0, 0, 3);
    let copied = copied.round(&world, Protect::Pages);
    world.store(0, 0, 4);
    owner.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

/// The same with its memory given away.
fn store_against_invalidation<F: Format>(plan: Plan, guest: Guest) {
    let world = written::<F>(plan, Guest { backed: Backed::Changing, ..guest });
    let copied = Copied::default().round(&world, Protect::Pages);
    world.store(0, 0, 2);
    let owner = world.clone();
    let owner = thread::spawn(move || owner.give_away(0, 2));
    world.begin();
    world.store(0, 0, 3);
    let left = owner.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
    assert_eq!(world.hardware.read_at(0), left, "a store landed after its memory was given away");
    assert_eq!(world.hardware.read(0), 3, "a write was lost");
}

fn scanned_page_goes<F: Format>(plan: Plan) {
    harvest_against_invalidation::<F>(plan, SCANNED);
}

fn logged_page_goes<F: Format>(plan: Plan) {
    harvest_against_invalidation::<F>(plan, LOGGED);
}

fn scanned_memory_goes<F: Format>(plan: Plan) {
    store_against_invalidation::<F>(plan, SCANNED);
}

fn logged_memory_goes<F: Format>(plan: Plan) {
    store_against_invalidation::<F>(plan, LOGGED);
}

#[test]
fn a_leaf_that_goes_leaves_what_it_knows() {
    explore([scanned_memory_goes::<X86>, scanned_memory_goes::<Arm>]);
    explore([logged_memory_goes::<X86>, logged_memory_goes::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [scanned_page_goes::<X86>, scanned_page_goes::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [logged_page_goes::<X86>, logged_page_goes::<Arm>]);
}

#[test]
fn a_leaf_that_takes_its_dirty_bit_along_loses_a_write() {
    must_object(Break::DropCredit, [scanned_page_goes::<X86>, scanned_page_goes::<Arm>]);
    must_object(Break::DropCredit, [scanned_memory_goes::<X86>, scanned_memory_goes::<Arm>]);
}

/// Logging starts while a vCPU stores through translations that remember a set D bit.
fn store_against_start<F: Format>(plan: Plan, guest: Guest) {
    let world = World::<F>::of(plan, guest);
    world.mmu.stop_log(SLOT).expect("it was on");
    world.store(0, 0, 1);
    let migration = world.clone();
    let migration = thread::spawn(move || {
        migration.mmu.start_log(SLOT, Initial::Clean).expect("memory");
        Copied::whole(&migration)
    });
    world.begin();
    world.store(0, 0, 2);
    world.store(0, 1, 2);
    let copied = migration.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn scanned_start<F: Format>(plan: Plan) {
    store_against_start::<F>(plan, SCANNED);
}

fn logged_start<F: Format>(plan: Plan) {
    store_against_start::<F>(plan, LOGGED);
}

/// Two start one log. Each may rely on it when its own call returns.
fn two_starts<F: Format>(plan: Plan, guest: Guest) {
    let world = World::<F>::of(plan, guest);
    world.mmu.stop_log(SLOT).expect("it was on");
    world.store(0, 0, 1);
    let other = world.clone();
    let other = thread::spawn(move || other.mmu.start_log(SLOT, Initial::Clean).expect("memory"));
    world.begin();
    world.mmu.start_log(SLOT, Initial::Clean).expect("memory");
    let copied = Copied::whole(&world);
    world.store(0, 0, 2);
    other.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

fn scanned_starts<F: Format>(plan: Plan) {
    two_starts::<F>(plan, SCANNED);
}

fn logged_starts<F: Format>(plan: Plan) {
    two_starts::<F>(plan, LOGGED);
}

#[test]
fn whoever_starts_a_log_second_may_rely_on_it_too() {
    explore_bounded(PREEMPTIONS_OF_MANY, [scanned_starts::<X86>, scanned_starts::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [logged_starts::<X86>, logged_starts::<Arm>]);
}

#[test]
fn a_store_after_logging_by_dirty_bits_has_started_is_logged() {
    explore_bounded(PREEMPTIONS_OF_MANY, [scanned_start::<X86>, scanned_start::<Arm>]);
    explore_bounded(PREEMPTIONS_OF_MANY, [logged_start::<X86>, logged_start::<Arm>]);
}

#[test]
fn starting_without_its_shoot_down_loses_a_write() {
    must_object(Break::SkipFlush, [scanned_start::<X86>, scanned_start::<Arm>]);
    must_object(Break::SkipFlush, [logged_start::<X86>, logged_start::<Arm>]);
}

/// The guest is paused. Somebody reads the log and leaves it as it is, while a harvest takes it: what
/// the former has found in D bits and not yet credited is missing from no last round.
fn two_readers_of_a_guest_at_rest<F: Format>(plan: Plan, guest: Guest) {
    let world = written::<F>(plan, guest);
    let copied = Copied::default().round(&world, Protect::Pages);
    world.store(0, 0, 2);
    let other = world.clone();
    let other = thread::spawn(move || drop(other.read_dirty()));
    world.begin();
    copied.finish(&world, Protect::Pages);
    other.join().expect("no panic");
}

fn scanned_at_rest<F: Format>(plan: Plan) {
    two_readers_of_a_guest_at_rest::<F>(plan, SCANNED);
}

fn logged_at_rest<F: Format>(plan: Plan) {
    two_readers_of_a_guest_at_rest::<F>(plan, LOGGED);
}

#[test]
fn a_last_round_waits_for_whoever_has_dirty_bits_in_hand() {
    explore([scanned_at_rest::<X86>, scanned_at_rest::<Arm>]);
    explore([logged_at_rest::<X86>, logged_at_rest::<Arm>]);
}

/// The same with two who harvest: one of them returns it.
fn two_harvests_of_a_guest_at_rest<F: Format>(plan: Plan) {
    let world = written::<F>(plan, SCANNED);
    world.harvest(Protect::Pages);
    world.store(0, 0, 2);
    let other = world.clone();
    let other = thread::spawn(move || other.harvest(Protect::Pages));
    world.begin();
    let mut found = world.harvest(Protect::Pages);
    found.extend(other.join().expect("no panic"));
    assert_eq!(found, [0], "a write was lost, or named twice");
}

#[test]
fn of_two_harvests_one_returns_what_hardware_knows() {
    explore([two_harvests_of_a_guest_at_rest::<X86>, two_harvests_of_a_guest_at_rest::<Arm>]);
}

/// A harvest returns a page whose D bit another has cleared and not yet shot down. It is heard of
/// again.
fn harvest_against_unpaid_scan<F: Format>(plan: Plan) {
    let world = written::<F>(plan, SCANNED);
    let other = world.clone();
    let other = thread::spawn(move || drop(other.read_dirty()));
    world.begin();
    world.write(0, 2).expect("memory");
    let copied = Copied::default().round(&world, Protect::Pages);
    world.store(0, 0, 3);
    other.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_harvest_pays_for_anothers_scan() {
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [harvest_against_unpaid_scan::<X86>, harvest_against_unpaid_scan::<Arm>],
    );
}

#[test]
fn ignoring_the_debt_of_anothers_scan_loses_a_write() {
    must_object(
        Break::IgnoreDebt,
        [harvest_against_unpaid_scan::<X86>, harvest_against_unpaid_scan::<Arm>],
    );
}

/// A store below the open way, and then everything is closed and shot down, all while a harvest scans:
/// what it was too early for stays to be scanned.
fn scan_against_store_and_generation<F: Format>(plan: Plan) {
    let world = written::<F>(plan, SCANNED);
    let copied = Copied::default().round(&world, Protect::Pages);
    let other = world.clone();
    let other = thread::spawn(move || {
        other.store(0, 0, 2);
        other.mmu.write_protect_all();
    });
    world.begin();
    let copied = copied.round(&world, Protect::Pages);
    other.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

/// The way is closed and not shot down while a harvest scans, and a vCPU remembers it as open.
fn scan_against_unpaid_generation<F: Format>(plan: Plan) {
    let world = written::<F>(plan, SCANNED);
    let copied = Copied::default().round(&world, Protect::Pages);
    // The way is remembered, the leaf with a clear D bit.
    world.load(0, 0);
    let (closer, vcpu) = (world.clone(), world.clone());
    let closer = thread::spawn(move || closer.mmu.write_protect_all());
    let vcpu = thread::spawn(move || vcpu.try_store(0, 0, 2));
    world.begin();
    let copied = copied.round(&world, Protect::Pages);
    closer.join().expect("no panic");
    vcpu.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn a_table_stays_on_the_record_while_stores_may_reach_it() {
    explore([scan_against_store_and_generation::<X86>, scan_against_store_and_generation::<Arm>]);
    explore_bounded(
        PREEMPTIONS_OF_MANY,
        [scan_against_unpaid_generation::<X86>, scan_against_unpaid_generation::<Arm>],
    );
}

/// A page that a reader has just found by its D bit is taken out of the log, copied, and stored to
/// again.
fn clear_against_scan<F: Format>(plan: Plan) {
    let world = written::<F>(plan, SCANNED);
    let copied = Copied::default().round(&world, Protect::Pages);
    world.store(0, 0, 2);
    let reader = world.clone();
    let reader = thread::spawn(move || drop(reader.read_dirty()));
    world.begin();
    let cleared = world.clear(1);
    let copied = copied.pages(&world, cleared);
    world.store(0, 0, 3);
    reader.join().expect("no panic");
    copied.finish(&world, Protect::Pages);
}

#[test]
fn what_a_scan_finds_it_has_cleared_before() {
    explore([clear_against_scan::<X86>, clear_against_scan::<Arm>]);
}
