//! What the writing guests write, as the host predicts it.

use crate::{presence, until_passes, word};
use std::collections::BTreeSet;
use vellum_vmm::{Config, Guest, Machine, RESERVED_PAGES};

const MEMORY: u64 = 16 << 20;
/// Pages of the working set: no power of two.
const WORKING_SET: u64 = 300;
const SEED: u64 = 5;

const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const SCATTER: u64 = 0xff51_afd7_ed55_8ccd;

/// A machine with a working set of [`WORKING_SET`] pages, paused after at least three passes.
fn written(guest: Guest, vcpus: usize) -> Option<Machine> {
    let word = WORKING_SET << 12;
    let config = Config { seed: SEED, word, ..Config::new(MEMORY, vcpus) };
    let (machine, _) = presence::machine(&config, &guest.program())?;
    machine.resume();
    until_passes(&machine, 3);
    machine.pause();
    Some(machine)
}

/// The number that pass `pass` has written to a page above the reserved ones.
fn mark(machine: &Machine, page: u64, pass: u64) -> u64 {
    word(machine, RESERVED_PAGES + page, pass % 512)
}

/// The pages above the reserved ones that have anything in them.
fn touched(machine: &Machine) -> BTreeSet<u64> {
    let pages = 0..(MEMORY >> 12) - RESERVED_PAGES;
    pages.filter(|&page| !crate::is_zero(machine, RESERVED_PAGES + page)).collect()
}

#[test]
fn sequential_writes_every_page_of_its_working_set_and_no_other() {
    let Some(machine) = written(Guest::Sequential, 2) else { return };
    assert_eq!(touched(&machine), (0..WORKING_SET).collect());
    for (vcpu, passes) in (0..).zip(machine.passes()) {
        for page in (vcpu..WORKING_SET).step_by(2) {
            assert_eq!(mark(&machine, page, passes), passes, "page {page}");
        }
    }
}

/// The pages of one vCPU's first passes, pass by pass.
struct Draws {
    state: u64,
    draw: fn(u64) -> u64,
}

impl Draws {
    fn new(draw: fn(u64) -> u64) -> Self {
        Self { state: (SEED + 1).wrapping_mul(SPREAD) | 1, draw }
    }

    fn pass(&mut self) -> BTreeSet<u64> {
        (0..WORKING_SET).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.draw)(self.state)
    }
}

fn scaled(random: u64, below: u64) -> u64 {
    let scaled = (u128::from(random) * u128::from(below)) >> 64;
    u64::try_from(scaled).expect("below a number of 64 bits")
}

fn evenly(random: u64) -> u64 {
    scaled(random, WORKING_SET)
}

fn by_rank(random: u64) -> u64 {
    let octaves = WORKING_SET.ilog2();
    let below = (1 << scaled(random, octaves.into())) - 1;
    let rank = (random & below) + below;
    rank.wrapping_mul(SCATTER) & ((1 << octaves) - 1)
}

fn drawn_as_predicted(guest: Guest, draw: fn(u64) -> u64) {
    let Some(machine) = written(guest, 1) else { return };
    let passes = machine.passes()[0];
    let mut draws = Draws::new(draw);
    let mut pages = BTreeSet::new();
    for pass in 1..=passes {
        let drawn = draws.pass();
        if passes - pass < 500 {
            drawn.iter().for_each(|&page| assert_eq!(mark(&machine, page, pass), pass));
        }
        pages.extend(drawn);
    }
    let found = touched(&machine);
    assert!(found.is_superset(&pages));
    // The pass that was under way has drawn some as well.
    pages.extend(draws.pass());
    assert!(pages.is_superset(&found));
}

#[test]
fn random_writes_the_pages_that_the_host_draws() {
    drawn_as_predicted(Guest::Random, evenly);
}

#[test]
fn zipf_writes_the_pages_that_the_host_draws_and_the_first_ranks_most() {
    drawn_as_predicted(Guest::Zipf, by_rank);
    let mut draws = Draws::new(by_rank);
    let first = (0..10_000).filter(|_| draws.next() == 0).count();
    let share = 10_000 / usize::try_from(WORKING_SET.ilog2()).expect("small");
    assert!(first.abs_diff(share) < share / 5, "{first} of {share}");
}

#[test]
fn idle_counts_in_one_page_a_vcpu() {
    let Some(machine) = written(Guest::Idle, 2) else { return };
    assert_eq!(touched(&machine), [0, 1].into());
    for (vcpu, passes) in (0..).zip(machine.passes()) {
        let counted = word(&machine, RESERVED_PAGES + vcpu, 0);
        assert!((passes..=passes + 1).contains(&counted), "{counted} of {passes}");
    }
}

#[test]
fn no_working_set_is_larger_than_memory() {
    let config = Config { word: u64::MAX, ..Config::new(MEMORY, 1) };
    for guest in [Guest::Sequential, Guest::Random, Guest::Zipf] {
        let Some((machine, _log)) = presence::machine(&config, &guest.program()) else { return };
        machine.resume();
        until_passes(&machine, 2);
    }
}
