//! The guest runs while its log is read.

use crate::native::{DATA, Machine, Runner};
use crate::oracle::{Copy, named, take};
use crate::{PAGES, apart, each_way, has_rings, together};
use vellum_memory::{DirtySource, PageSet};

/// At least so many rounds,
const ROUNDS: usize = 50;
/// and at least so many pages in them: that the guest ran is not a matter of time.
const MANY: u64 = 10 * PAGES;

/// Whether each round is looked at by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// What differs before a collection must be in its round.
    AtEachRound,
    /// All must have arrived in the end.
    AtTheEnd,
}

/// Takes rounds of a running guest, then pauses it and takes what is left.
fn all_arrives(mut machine: Machine, look: Look) {
    let way = machine.log.way();
    machine.log.start().expect("the log starts");
    let mut copy = Copy::of(&machine.memory);
    let mut round = PageSet::new(machine.log.layout());
    let runner = Runner::start(core::mem::take(&mut machine.vcpus));
    let (mut rounds, mut pages) = (0, 0);
    while rounds < ROUNDS || pages < MANY {
        let changed = match look {
            Look::AtEachRound => copy.changed(DATA, &machine.memory),
            Look::AtTheEnd => Vec::new(),
        };
        if has_rings(way) {
            // A processor may keep what it logs until it leaves the guest.
            runner.let_each_leave();
        }
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(named(&round, &changed), Ok(()), "{way}");
        copy.deliver(&round, &machine.memory);
        if round.is_empty() {
            std::thread::yield_now();
        }
        rounds += 1;
        pages += round.count();
    }
    let full: u64 = runner.end().iter().map(|vcpu| vcpu.full).sum();
    take(&mut machine.log, &mut round).expect("the last round");
    copy.deliver(&round, &machine.memory);
    assert_eq!(copy.is_whole(&machine.memory), Ok(()), "{way}");
    println!("{way}: {pages} pages in {rounds} rounds; rings were full {full} times");
}

#[test]
fn a_store_before_a_collection_is_in_its_round_with_two_vcpus_on_pages_of_their_own() {
    each_way(&apart(5000), |machine| all_arrives(machine, Look::AtEachRound));
}

#[test]
fn nothing_is_lost_with_two_vcpus_on_the_same_pages() {
    each_way(&together(5000), |machine| all_arrives(machine, Look::AtTheEnd));
}

#[test]
fn nothing_is_lost_with_one_vcpu() {
    each_way(&together(5000)[..1], |machine| all_arrives(machine, Look::AtEachRound));
}
