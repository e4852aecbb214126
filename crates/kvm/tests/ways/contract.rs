//! What every dirty source promises, with a guest that stands still while the log is read.

use crate::native::{DATA, Machine, Presence, SYSTEM};
use crate::oracle::{Copy, named, protect, take};
use crate::{PAGES, apart, each_way, is_manual, together};
use std::collections::BTreeSet;
use vellum_kvm::{Call, KvmError, Way};
use vellum_memory::{DirtySource, Gfn, GfnRange, Misuse, PageSet};

/// Starts, and takes the round that a log which begins all set has for everything.
fn begin(machine: &mut Machine) -> PageSet {
    let mut round = PageSet::new(machine.log.layout());
    machine.log.start().expect("the log starts");
    if machine.log.way() == Way::ManualAllSet {
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(round.regions()[DATA].count(), PAGES);
    }
    round.clear();
    round
}

fn run(machine: &mut Machine) {
    machine.vcpus.iter_mut().for_each(crate::native::Vcpu::round);
}

fn data(round: &PageSet) -> BTreeSet<u64> {
    round.regions()[DATA].pages().collect()
}

#[test]
fn the_guest_walks_as_the_host_predicts() {
    let mut walk = apart(500)[1];
    each_way(&[walk], |mut machine| {
        let before = Copy::of(&machine.memory);
        run(&mut machine);
        let start = PAGES / 2;
        let pages: BTreeSet<_> = (0..500).map(|_| start + walk.step().0).collect();
        walk = apart(500)[1];
        assert_eq!(before.changed(DATA, &machine.memory), Vec::from_iter(pages));
    });
}

#[test]
fn a_round_has_each_page_that_changed_and_no_other() {
    each_way(&together(700), |mut machine| {
        let mut round = begin(&mut machine);
        let mut copy = Copy::of(&machine.memory);
        for _ in 0..20 {
            run(&mut machine);
            let changed = copy.changed(DATA, &machine.memory);
            take(&mut machine.log, &mut round).expect("a round");
            assert_eq!(named(&round, &changed), Ok(()), "{}", machine.log.way());
            assert_eq!(data(&round), BTreeSet::from_iter(changed), "{}", machine.log.way());
            copy.deliver(&round, &machine.memory);
            assert_eq!(copy.is_whole(&machine.memory), Ok(()));
        }
    });
}

#[test]
fn a_store_between_the_collection_and_the_protection_is_in_this_round_or_the_next() {
    each_way(&apart(900), |mut machine| {
        let mut round = begin(&mut machine);
        let mut copy = Copy::of(&machine.memory);
        for _ in 0..20 {
            run(&mut machine);
            round.clear();
            machine.log.collect(&mut round).expect("a collection");
            run(&mut machine);
            protect(&mut machine.log, &mut round).expect("a protection");
            copy.deliver(&round, &machine.memory);
        }
        take(&mut machine.log, &mut round).expect("the last round");
        copy.deliver(&round, &machine.memory);
        assert_eq!(copy.is_whole(&machine.memory), Ok(()), "{}", machine.log.way());
    });
}

#[test]
fn two_collections_into_one_round_lose_nothing_of_either() {
    each_way(&apart(60), |mut machine| {
        let mut round = begin(&mut machine);
        let copy = Copy::of(&machine.memory);
        for _ in 0..5 {
            run(&mut machine);
            machine.log.collect(&mut round).expect("a collection");
        }
        protect(&mut machine.log, &mut round).expect("a protection");
        let changed = copy.changed(DATA, &machine.memory);
        assert_eq!(data(&round), BTreeSet::from_iter(changed), "{}", machine.log.way());
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), BTreeSet::new(), "{}", machine.log.way());
    });
}

#[test]
fn a_round_that_others_have_added_pages_to_loses_no_store_to_them() {
    each_way(&together(900), |mut machine| {
        let mut round = begin(&mut machine);
        let mut copy = Copy::of(&machine.memory);
        for added in 0..20 {
            run(&mut machine);
            round.clear();
            machine.log.collect(&mut round).expect("a collection");
            round.regions_mut()[DATA].insert_range(added * 100..added * 100 + 777);
            run(&mut machine);
            protect(&mut machine.log, &mut round).expect("a protection");
            copy.deliver(&round, &machine.memory);
            run(&mut machine);
        }
        take(&mut machine.log, &mut round).expect("the last round");
        copy.deliver(&round, &machine.memory);
        assert_eq!(copy.is_whole(&machine.memory), Ok(()), "{}", machine.log.way());
    });
}

#[test]
fn a_page_that_is_taken_out_of_a_round_before_it_is_protected_comes_again() {
    each_way(&together(900), |mut machine| {
        if !is_manual(machine.log.way()) {
            return;
        }
        let mut round = begin(&mut machine);
        run(&mut machine);
        machine.log.collect(&mut round).expect("a collection");
        let out: BTreeSet<u64> = data(&round).into_iter().step_by(3).collect();
        assert!(out.len() > 100, "the guest has run");
        out.iter().for_each(|page| round.regions_mut()[DATA].remove(*page));
        protect(&mut machine.log, &mut round).expect("a protection");
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), out, "{}", machine.log.way());
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), BTreeSet::new(), "{}", machine.log.way());
    });
}

#[test]
fn what_is_owed_is_in_the_next_round_and_in_one() {
    each_way(&apart(100), |mut machine| {
        let mut round = begin(&mut machine);
        run(&mut machine);
        take(&mut machine.log, &mut round).expect("a round");
        let owed = data(&round);
        assert!(!owed.is_empty());
        machine.log.owe(&round);
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), owed);
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), BTreeSet::new());
    });
}

#[test]
fn a_stopped_log_says_so_and_one_that_starts_again_has_forgotten() {
    each_way(&apart(100), |mut machine| {
        let mut round = begin(&mut machine);
        run(&mut machine);
        machine.log.stop().expect("it stops");
        machine.log.stop().expect("it stops twice");
        let refused = machine.log.collect(&mut round);
        assert!(matches!(refused, Err(KvmError::Misuse(Misuse::Off))), "{refused:?}");
        run(&mut machine);
        let mut round = begin(&mut machine);
        let copy = Copy::of(&machine.memory);
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), BTreeSet::new(), "{}", machine.log.way());
        run(&mut machine);
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), BTreeSet::from_iter(copy.changed(DATA, &machine.memory)));
    });
}

#[test]
fn a_log_that_is_started_while_it_is_on_begins_anew() {
    each_way(&apart(100), |mut machine| {
        begin(&mut machine);
        run(&mut machine);
        let mut round = begin(&mut machine);
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), BTreeSet::new(), "{}", machine.log.way());
        let copy = Copy::of(&machine.memory);
        run(&mut machine);
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(data(&round), BTreeSet::from_iter(copy.changed(DATA, &machine.memory)));
    });
}

#[test]
fn a_log_begun_all_set_names_everything_once() {
    crate::with(Way::ManualAllSet, &apart(100), |mut machine| {
        let mut round = PageSet::new(machine.log.layout());
        machine.log.start().expect("the log starts");
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(round, PageSet::full(machine.log.layout()));
        take(&mut machine.log, &mut round).expect("a round");
        assert!(round.is_empty());
    });
}

#[test]
fn a_range_that_is_not_protected_keeps_its_pages_whatever_its_bounds() {
    each_way(&together(20_000), |mut machine| {
        if !is_manual(machine.log.way()) {
            return;
        }
        let mut round = begin(&mut machine);
        let base = machine.log.layout().regions()[DATA].range.first();
        for (first, pages) in [(0, 1), (63, 2), (64, 64), (130, 3), (1000, 777), (PAGES - 3, 3)] {
            run(&mut machine);
            round.clear();
            machine.log.collect(&mut round).expect("a collection");
            let before = data(&round);
            let range = GfnRange::new(Gfn::new(base.get() + first), pages).expect("a range");
            machine.log.protect(DATA, range, &mut round).expect("a protection");
            round.clear();
            machine.log.collect(&mut round).expect("a collection");
            let here = first..first + pages;
            let kept: BTreeSet<_> =
                before.iter().copied().filter(|page| !here.contains(page)).collect();
            assert!(before.len() > kept.len(), "the range had pages: {here:?}");
            assert_eq!(data(&round), kept);
            protect(&mut machine.log, &mut round).expect("a protection");
        }
    });
}

#[test]
fn a_slot_whose_log_cannot_be_read_is_owed_whole_and_so_is_what_was_taken_before_it() {
    each_way(&apart(100), |mut machine| {
        if machine.log.way() == Way::Ring {
            return;
        }
        let mut round = begin(&mut machine);
        run(&mut machine);
        machine.set_slot(DATA, Presence::Gone);
        let mut taken = PageSet::new(machine.log.layout());
        taken.regions_mut()[SYSTEM].insert(3);
        let failed = machine.log.collect(&mut taken);
        let call = match failed {
            Err(KvmError::Slot { call, slot, .. }) => (call, slot.0),
            other => panic!("{other:?}"),
        };
        assert_eq!(call, (Call::GetDirtyLog, 1));
        machine.set_slot(DATA, Presence::Logged);
        take(&mut machine.log, &mut round).expect("a round");
        assert_eq!(round.regions()[DATA].count(), PAGES);
        assert!(round.regions()[SYSTEM].contains(3));
    });
}

#[test]
fn a_page_set_over_another_layout_is_refused() {
    each_way(&apart(100), |mut machine| {
        begin(&mut machine);
        let mut other = PageSet::new(&vellum_memory::Layout::default());
        let refused = machine.log.collect(&mut other);
        assert!(matches!(refused, Err(KvmError::Misuse(Misuse::OtherLayout))), "{refused:?}");
    });
}
