//! Where the kernel has the tables: bugs in how its log is read. Each is found in every migration, not
//! in one of a few.

use super::{SEEDS, fails};
use crate::gate;
use vellum_kvm::Way;

const KVM: [&str; 6] = ["--machine", "kvm", "--memory", "64M", "--vcpus", "2"];

/// Every migration with the bug ends unverified.
fn assert_always_caught(way: Way, bug: &str, more: &[&str]) {
    if !gate::has(way) {
        return;
    }
    for seed in SEEDS {
        let asked = [&KVM[..], more, &["--break", bug]].concat();
        assert!(fails(&asked, seed), "--break {bug} {more:?} was verified with seed {seed}");
    }
}

/// So does none without it, asked for as [`assert_always_caught`] has it arranged.
fn assert_sound(way: Way, more: &[&str]) {
    if !gate::has(way) {
        return;
    }
    let arranged = ["--guest", "sequential", "--memory", "16M", "--downtime", "1ms"];
    for seed in SEEDS {
        let asked = [&["--machine", "kvm", "--vcpus", "2"], &arranged[..], more].concat();
        assert!(!fails(&asked, seed), "{more:?} loses a page with seed {seed}");
    }
}

#[test]
fn a_bit_that_a_clearing_get_drops_is_caught() {
    assert_always_caught(Way::ClearingGet, "drop-bit", &["--track", "per-page"]);
}

#[test]
fn a_bit_that_is_dropped_and_cleared_is_caught() {
    assert_always_caught(Way::Manual, "drop-bit", &["--track", "manual"]);
}

#[test]
fn an_entry_that_is_dropped_from_a_ring_is_caught() {
    assert_always_caught(Way::Ring, "drop-bit", &["--track", "ring"]);
}

#[test]
fn rings_that_are_given_back_when_the_next_round_begins_are_caught() {
    assert_sound(Way::Ring, &["--track", "ring"]);
    assert_always_caught(Way::Ring, "reset-early", &[]);
}

#[test]
fn a_clear_after_the_pages_were_read_is_caught() {
    assert_sound(Way::Manual, &["--track", "manual"]);
    assert_always_caught(Way::Manual, "late-clear", &[]);
}

/// What it costs is found by `vellum-kvm`'s own tests, which know each round's pages.
#[test]
fn a_clear_that_is_never_made_loses_nothing() {
    if !gate::has(Way::Manual) {
        return;
    }
    for seed in SEEDS {
        let asked = [&KVM[..], &["--break", "lost-clear"]].concat();
        assert!(!fails(&asked, seed), "a page is lost with seed {seed}");
    }
}
