//! The deliberate bugs of the shipped log, each found by the oracle.

use crate::native::{DATA, Machine, Vcpu};
use crate::oracle::{Copy, Lost, protect, take};
use crate::{apart, has_rings, with};
use vellum_kvm::{Break, Way};
use vellum_memory::{DirtySource, PageSet};

/// So few stores that no ring is full: emptying it would protect pages in time.
const STORES: u64 = 150;

/// A guest whose log has the bug.
fn broken(way: Way, bug: Option<Break>, test: impl FnOnce(Machine)) {
    with(way, &apart(STORES), |mut machine| {
        if let Some(bug) = bug {
            machine.log.break_with(bug);
        }
        machine.log.start().expect("the log starts");
        test(machine);
    });
}

/// Rounds as a migration makes them: the guest runs once more while the pages of a round are being
/// copied, and stands in the last. Says how many pages the last one had.
fn rounds(machine: &mut Machine) -> (Result<(), Lost>, u64) {
    let Machine { log, vcpus, memory, .. } = machine;
    let mut copy = Copy::of(memory);
    let mut round = PageSet::new(log.layout());
    for _ in 0..10 {
        vcpus.iter_mut().for_each(Vcpu::round);
        take(log, &mut round).expect("a round");
        copy.deliver(&round, memory);
        vcpus.iter_mut().for_each(Vcpu::round);
    }
    take(log, &mut round).expect("a round");
    copy.deliver(&round, memory);
    take(log, &mut round).expect("a round of a guest that stands");
    (copy.is_whole(memory), round.regions()[DATA].count())
}

fn assert_loses(way: Way, bug: Break) {
    broken(way, None, |mut machine| {
        assert_eq!(rounds(&mut machine), (Ok(()), 0), "{way} without the bug");
    });
    broken(way, Some(bug), |mut machine| {
        let (whole, _) = rounds(&mut machine);
        assert!(whole.is_err(), "{way} with {bug:?} loses nothing");
    });
}

#[test]
fn a_collection_that_drops_bits_is_found_in_every_way() {
    for way in Way::ALL {
        assert_loses(way, Break::DropBit);
    }
}

#[test]
fn rings_that_are_given_back_a_round_too_late_lose_stores() {
    for way in Way::ALL.into_iter().filter(|&way| has_rings(way)) {
        assert_loses(way, Break::ResetEarly);
    }
}

#[test]
fn a_clear_after_the_pages_were_read_loses_stores() {
    assert_loses(Way::Manual, Break::LateClear);
}

#[test]
fn a_clear_that_is_never_made_loses_nothing_and_a_round_of_a_guest_that_stands_is_not_empty() {
    broken(Way::Manual, Some(Break::LostClear), |mut machine| {
        let (whole, standing) = rounds(&mut machine);
        assert_eq!(whole, Ok(()));
        assert!(standing > 0, "nothing was cleared, and yet a round is empty");
    });
}

#[test]
fn a_clear_that_is_never_made_repeats_exactly_what_was_dirty_before() {
    broken(Way::Manual, Some(Break::LostClear), |mut machine| {
        let before = Copy::of(&machine.memory);
        let mut round = PageSet::new(machine.log.layout());
        for _ in 0..5 {
            machine.vcpus.iter_mut().for_each(Vcpu::round);
            round.clear();
            machine.log.collect(&mut round).expect("a collection");
            protect(&mut machine.log, &mut round).expect("a protection");
            let pages: Vec<u64> = round.regions()[DATA].pages().collect();
            assert_eq!(pages, before.changed(DATA, &machine.memory));
        }
    });
}
