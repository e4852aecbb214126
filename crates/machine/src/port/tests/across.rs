//! Stores across two pages: whole or not at all, and none after a shoot-down has returned.

use super::super::window::{Half, Target, Window};
use super::{Each, Hub, Page, each_format, hubs};
use crate::board::{Board, BoardConfig};
use crate::bus::{Bus, BusError, Width};
use crate::port::ShootDown;
use crate::walker::WalkedFormat;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vellum_pte::{Gpa, PAGE_SIZE};

const BASE: u64 = 0x8000_0000;
const PAGES: u64 = 4;

struct Torn;

impl Each for Torn {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let mut port = board.port().expect("memory");
        let end = BASE + PAGES * PAGE_SIZE;
        for below in 1..8 {
            let at = Gpa::new(end - below);
            let refused = port.store(at, Width::Double, u64::MAX);
            assert_eq!(refused, Err(BusError::Unmapped(Gpa::new(end))), "{}", F::NAME);
            let before = Gpa::new(BASE - 8 + below);
            let refused = port.store(before, Width::Double, u64::MAX);
            assert_eq!(refused, Err(BusError::Unmapped(before)), "{}", F::NAME);
        }
        let last = Gpa::new(end - 8);
        assert_eq!(port.load(last, Width::Double), Ok(0), "{}: of no store a part", F::NAME);
        assert_eq!(port.load(Gpa::new(BASE), Width::Double), Ok(0));
    }
}

#[test]
fn a_store_across_pages_that_is_refused_changes_neither() {
    let config = BoardConfig::with_memory(PAGES * PAGE_SIZE).expect("in range");
    each_format(&config, &Torn);
}

struct Crossing;

impl Each for Crossing {
    fn on<F: WalkedFormat>(&self, board: &Board<F>) {
        let mut port = board.port().expect("memory");
        for width in [Width::Half, Width::Word, Width::Double] {
            for below in 1..width.bytes() {
                let at = Gpa::new(BASE + PAGE_SIZE - below);
                for page in [0, 1] {
                    let word = Gpa::new(BASE + PAGE_SIZE - 8 + 8 * page);
                    port.store(word, Width::Double, 0).expect("RAM");
                }
                let value = 0x8182_8384_8586_8788 & (u64::MAX >> (64 - 8 * width.bytes()));
                port.store(at, width, u64::MAX).expect("RAM");
                port.store(at, width, value).expect("RAM");
                assert_eq!(port.load(at, width), Ok(value), "{} {width:?} {below}", F::NAME);
                let word = |at| port.load(Gpa::new(at), Width::Double).expect("RAM");
                let around = [BASE + PAGE_SIZE - 8, BASE + PAGE_SIZE].map(word);
                let stored = around.iter().flat_map(|word| word.to_le_bytes());
                let count = stored.filter(|&byte| byte != 0).count() as u64;
                assert_eq!(count, width.bytes(), "nothing else is touched");
            }
        }
    }
}

#[test]
fn a_store_across_pages_stores_its_bytes_and_no_others() {
    for shoot_down in [ShootDown::Waiting, ShootDown::best()] {
        let config = BoardConfig::with_memory(PAGES * PAGE_SIZE).expect("in range");
        each_format(&BoardConfig { shoot_down, ..config }, &Crossing);
    }
}

#[test]
fn halves_of_two_epochs_are_not_stored() {
    for (way, hub) in hubs() {
        let (page, window) = (Page::new(), Window::new(&hub));
        let half = |offset| Half {
            at: Target { host: page.at(offset), epoch: hub.epoch() },
            bytes: 4,
            value: 7,
        };
        let old = half(0);
        assert_eq!(window.store_both(old, half(8)), Some(()), "{way:?}");
        hub.shoot_down();
        assert_eq!(window.store_both(old, half(16)), None, "{way:?}");
        assert_eq!(window.store_both(half(16), old), None, "{way:?}");
        assert_eq!(window.store_both(old, old), None, "{way:?}");
        assert_eq!(page.get(2), 0);
    }
}

/// How often a long access was still under way, or began, after `shoot_down` had returned. As in the
/// parent's `late_stores`, but that the access has several steps.
fn late_accesses(hub: &Hub, shoot_down: fn(&Hub), rounds: usize) -> usize {
    let steps = AtomicU64::new(0);
    let valid = AtomicU64::new(hub.epoch());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let window = Window::new(hub);
            while !over.load(Ordering::Relaxed) {
                let step = |_| {
                    steps.fetch_add(1, Ordering::SeqCst);
                    (0..50).for_each(|_| std::hint::spin_loop());
                };
                let long = || (0..20).for_each(step);
                if window.waited_for(valid.load(Ordering::Relaxed), long).is_none() {
                    std::thread::yield_now();
                }
            }
        });
        let late = (0..rounds).filter(|_| goes_on(hub, &steps, &valid, shoot_down)).count();
        over.store(true, Ordering::Relaxed);
        late
    })
}

/// Lets it begin, shoots down, and looks on.
fn goes_on(hub: &Hub, steps: &AtomicU64, valid: &AtomicU64, shoot_down: fn(&Hub)) -> bool {
    let before = steps.load(Ordering::SeqCst);
    while steps.load(Ordering::SeqCst) == before {
        std::thread::yield_now();
    }
    shoot_down(hub);
    let seen = steps.load(Ordering::SeqCst);
    let late = (0..20_000).any(|_| steps.load(Ordering::SeqCst) != seen);
    valid.store(hub.epoch(), Ordering::Relaxed);
    late
}

#[test]
fn a_shoot_down_waits_for_accesses_of_several_steps() {
    for (way, hub) in hubs() {
        assert_eq!(late_accesses(&hub, Hub::shoot_down, 300), 0, "{way:?}");
    }
}

/// The negative control.
#[test]
fn a_shoot_down_that_does_not_wait_for_them_is_found() {
    for (way, hub) in hubs() {
        let found = (0..200).any(|_| late_accesses(&hub, Hub::begin_epoch, 200) > 0);
        assert!(found, "{way:?}");
    }
}
