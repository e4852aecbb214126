//! One ring: its vCPU against a consumer, without a guest around them.

use super::*;
use crate::embedder::{Backing, GuestPage, NoBacking, Scope};
use crate::frame::Frame;
use loom::sync::Arc;
use std::string::String;
use std::vec::Vec;

struct Nobody;

impl Embedder for Nobody {
    fn allocate_frame(&self) -> Option<Frame> {
        None
    }
    fn release_frame(&self, _: Frame) {}
    fn shoot_down(&self, _: Scope) {}
    fn has_barrier_all(&self) -> bool {
        false
    }
    fn barrier_all(&self) {}
    fn relax(&self) {
        loom::thread::yield_now();
    }
    fn resolve(&self, _: GuestPage) -> Option<Backing> {
        None
    }
    fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> {
        Err(NoBacking)
    }
}

fn ring_of_two(bug: Option<Break>) -> Arc<DirtyRing> {
    let breaks = Breaks { chosen: bug };
    Arc::new(DirtyRing::new(RingSize::tiny(2, 2), breaks).expect("memory"))
}

fn push(ring: &DirtyRing, page: u64) -> bool {
    ring.push(AddressSpace(0), SlotId(7), page).is_ok()
}

fn harvest(ring: &DirtyRing) -> Vec<u64> {
    let mut consumed = ring.consume(&Nobody);
    let mut pages = Vec::new();
    while ring.harvest(&mut consumed, |said| pages.push(said.page())).is_continue() {}
    pages
}

fn reset(ring: &DirtyRing) -> usize {
    let mut consumed = ring.consume(&Nobody);
    core::iter::from_fn(|| ring.reset(&mut consumed)).count()
}

fn model(scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(scenario);
}

/// Demands that loom find what a scenario says. Any other panic is no objection.
fn must_object(says: &str, scenario: impl Fn() + Sync + Send + 'static) {
    let run = std::panic::AssertUnwindSafe(|| model(scenario));
    let panic = std::panic::catch_unwind(run).expect_err("loom did not object");
    let literal = panic.downcast_ref::<&str>().copied();
    let said = panic.downcast_ref::<String>().map(String::as_str).or(literal);
    assert!(said.is_some_and(|said| said.contains(says)), "{said:?}");
}

/// More pages than there is room for, against a consumer that harvests and resets twice.
fn pushes_against_consumer(bug: Option<Break>) {
    let ring = ring_of_two(bug);
    let consumer = ring.clone();
    let consumer = loom::thread::spawn(move || {
        let mut found = harvest(&consumer);
        reset(&consumer);
        found.extend(harvest(&consumer));
        reset(&consumer);
        found
    });
    let had_room: Vec<_> = (1..=4).filter(|page| push(&ring, *page)).collect();
    let mut found = consumer.join().expect("no panic");
    found.extend(harvest(&ring));
    assert_eq!(found, had_room, "a page that had room was not harvested once and in order");
}

#[test]
fn what_had_room_is_harvested_once_and_in_order() {
    model(|| pushes_against_consumer(None));
}

#[test]
fn a_ring_that_is_overrun_loses_a_page() {
    must_object("had room", || pushes_against_consumer(Some(Break::OverrunRing)));
}

#[test]
fn a_reset_of_what_nobody_harvested_loses_a_page() {
    must_object("had room", || pushes_against_consumer(Some(Break::ResetUnharvested)));
}

/// Somebody who has the ring's memory mapped goes by the flags of an entry alone, as users of
/// `struct kvm_dirty_gfn` do: the count of entries is not in that memory.
fn push_against_flags(bug: Option<Break>) {
    let ring = ring_of_two(bug);
    let outside = ring.clone();
    let outside = loom::thread::spawn(move || {
        let entry = outside.entry(0);
        (entry.flags.load(Ordering::Acquire) & DIRTY != 0).then(|| entry.said())
    });
    assert!(push(&ring, 3));
    let said = outside.join().expect("no panic");
    let right = said.is_none_or(|said| (said.slot(), said.page()) == (SlotId(7), 3));
    assert!(right, "an entry is flagged and names another page");
}

#[test]
fn an_entry_that_is_flagged_says_which_page() {
    model(|| push_against_flags(None));
}

#[test]
fn flagging_an_entry_early_names_another_page() {
    must_object("names another page", || push_against_flags(Some(Break::FlagEarly)));
}
