use super::{DirtyRing, RingSize, RingSizeError, Said};
use crate::breaks::Breaks;
use crate::sync::Ordering;
use std::vec::Vec;
use vellum_pte::{AddressSpace, SlotId};

struct Nobody;

impl crate::Embedder for Nobody {
    fn allocate_frame(&self) -> Option<crate::Frame> {
        None
    }
    fn release_frame(&self, _: crate::Frame) {}
    fn shoot_down(&self, _: crate::Scope) {}
    fn has_barrier_all(&self) -> bool {
        false
    }
    fn barrier_all(&self) {}
    fn relax(&self) {}
    fn resolve(&self, _: crate::GuestPage) -> Option<crate::Backing> {
        None
    }
    fn write(&self, _: crate::GuestPage, _: u64, _: &[u8]) -> Result<(), crate::NoBacking> {
        Err(crate::NoBacking)
    }
}

fn ring() -> DirtyRing {
    let size = RingSize::new(128, 0).expect("more than the reserve");
    DirtyRing::new(size, Breaks::default()).expect("memory")
}

fn push(ring: &DirtyRing, page: u64) -> bool {
    ring.push(AddressSpace(1), SlotId(7), page).is_ok()
}

fn harvest(ring: &DirtyRing) -> Vec<u64> {
    let mut consumed = ring.consume(&Nobody);
    let mut pages = Vec::new();
    while ring.harvest(&mut consumed, |said| pages.push(said.page())).is_continue() {}
    pages
}

fn reset(ring: &DirtyRing) -> Vec<u64> {
    let mut consumed = ring.consume(&Nobody);
    core::iter::from_fn(|| ring.reset(&mut consumed)).map(Said::page).collect()
}

#[test]
fn sizes_are_powers_of_two_above_the_reserve() {
    let soft = |entries, buffered| RingSize::new(entries, buffered).map(|size| size.soft_limit);
    assert_eq!(soft(1024, 512), Ok(1024 - 64 - 512));
    assert_eq!(soft(65_536, 0), Ok(65_536 - 64));
    assert_eq!(soft(1000, 0), Err(RingSizeError::NotAPowerOfTwo(1000)));
    assert_eq!(soft(0, 0), Err(RingSizeError::NotAPowerOfTwo(0)));
    assert_eq!(soft(131_072, 0), Err(RingSizeError::TooLarge(131_072)));
    assert_eq!(soft(64, 0), Err(RingSizeError::TooSmall { entries: 64, reserve: 64 }));
    assert_eq!(
        soft(4096, u32::MAX),
        Err(RingSizeError::TooSmall { entries: 4096, reserve: u32::MAX })
    );
    assert_eq!(soft(512, 512), Err(RingSizeError::TooSmall { entries: 512, reserve: 576 }));
}

#[test]
fn what_was_pushed_is_harvested_in_order_and_once() {
    let ring = ring();
    assert!((0..5).all(|page| push(&ring, page)));
    assert_eq!(harvest(&ring), [0, 1, 2, 3, 4]);
    assert!(harvest(&ring).is_empty());
    assert!(push(&ring, 9));
    assert_eq!(harvest(&ring), [9]);
    assert_eq!(reset(&ring), [0, 1, 2, 3, 4, 9]);
    assert!(reset(&ring).is_empty());
}

#[test]
fn what_nobody_took_because_of_a_panic_is_harvested_again() {
    let ring = ring();
    assert!(push(&ring, 3));
    let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = ring.harvest(&mut ring.consume(&Nobody), |_| panic!("no room for it"));
    }));
    assert!(taken.is_err());
    assert!(reset(&ring).is_empty());
    assert_eq!(harvest(&ring), [3]);
}

#[test]
fn only_what_was_harvested_is_taken_back() {
    let ring = ring();
    push(&ring, 1);
    assert!(reset(&ring).is_empty());
    harvest(&ring);
    push(&ring, 2);
    assert_eq!(reset(&ring), [1]);
    assert_eq!(harvest(&ring), [2]);
}

#[test]
fn a_full_ring_refuses_and_keeps_what_it_has() {
    let ring = ring();
    assert!((0..64).all(|page| push(&ring, page)));
    assert!(ring.is_soft_full());
    assert!((64..128).all(|page| push(&ring, page)), "the reserve");
    assert!(!push(&ring, 128));
    assert_eq!(harvest(&ring), (0..128).collect::<Vec<_>>());
    assert!(ring.is_soft_full(), "harvesting frees nothing");
    assert_eq!(reset(&ring).len(), 128);
    assert!(!ring.is_soft_full());
    assert!(push(&ring, 128));
}

#[test]
fn indices_run_on_past_the_end_of_their_numbers() {
    let ring = ring();
    let near_the_end = u32::MAX - 100;
    ring.produced.0.store(near_the_end, Ordering::Relaxed);
    ring.reset.0.store(near_the_end, Ordering::Relaxed);
    ring.consume(&Nobody).next = near_the_end;
    for round in 0..10 {
        assert!((0..50).all(|page| push(&ring, round * 50 + page)));
        assert_eq!(harvest(&ring).len(), 50);
        assert_eq!(reset(&ring).len(), 50);
    }
}

#[test]
fn no_lie_in_an_entry_moves_an_index_past_what_was_written() {
    let ring = ring();
    for flags in [super::DIRTY, super::HARVESTED, u32::MAX] {
        ring.entries.iter().for_each(|entry| entry.flags.store(flags, Ordering::Relaxed));
        assert!(harvest(&ring).is_empty());
        assert!(reset(&ring).is_empty());
    }
    assert!(push(&ring, 3));
    assert_eq!(harvest(&ring), [3]);
    assert_eq!(reset(&ring), [3], "and the next, which says it is harvested, never was written");
}

proptest::proptest! {
    #[test]
    fn hostile_flags_lose_no_room_and_make_none(
        lies in proptest::collection::vec((0usize..128, 0u32..4, 0usize..40), 1..60)
    ) {
        let ring = ring();
        let mut used = 0i64;
        for (place, flags, pushes) in lies {
            used += (0..pushes).filter(|page| push(&ring, *page as u64)).count() as i64;
            ring.entries[place].flags.store(flags, Ordering::Relaxed);
            harvest(&ring);
            used -= reset(&ring).len() as i64;
            proptest::prop_assert!((0..=128).contains(&used));
            proptest::prop_assert_eq!(i64::from(ring.used()), used);
        }
    }
}
