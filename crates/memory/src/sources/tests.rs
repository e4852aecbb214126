mod mock;

use super::*;
use crate::scene::{crooked, layout, pages, range, round, set_of};
use crate::{AddressSpace, DeviceLog, Layout, Mark, Region, SlotId};
use mock::{Call, Hand, Planted, Way, mock};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec::Vec;

/// A union of three, the second one of the manual kind.
fn three(layout: &Layout) -> (Sources<'static>, [Hand; 3]) {
    let (first, one) = mock("first", layout, Way::Clearing);
    let (second, two) = mock("second", layout, Way::Manual);
    let (third, three) = mock("third", layout, Way::Clearing);
    let mut union = Sources::new(first).expect("memory");
    union.add(second).expect("the same layout");
    union.add(third).expect("the same layout");
    (union, [one, two, three])
}

fn three_started(layout: &Layout) -> (Sources<'static>, [Hand; 3]) {
    let (mut union, hands) = three(layout);
    union.start().expect("nothing fails");
    (union, hands)
}

/// Which source failed, and at what.
fn failure(outcome: Result<(), SourcesError>) -> (usize, &'static str, Planted) {
    match outcome {
        Err(SourcesError::Source { index, method, error }) => {
            (index, method, *error.downcast().expect("a mock's error"))
        }
        other => panic!("no source failed: {other:?}"),
    }
}

const NAMES: [&str; 3] = ["first", "second", "third"];

#[test]
fn a_round_is_what_any_source_saw() {
    let (mut union, hands) = three_started(&crooked());
    hands[0].write(0, 66);
    hands[1].write(1, 0);
    hands[1].write(3, 129);
    hands[2].write(1, 0);
    let found = round(&mut union).expect("nothing fails");
    assert_eq!(found, [(0, 66), (1, 0), (3, 129)]);
    assert!(round(&mut union).expect("nothing fails").is_empty());
}

#[test]
fn a_slot_that_ends_clean_does_not_shift_the_next() {
    let (mut union, hands) = three_started(&crooked());
    hands[1].write(2, 4);
    union.owe(&set_of(union.layout(), &[(3, 5)]));
    assert_eq!(round(&mut union).expect("nothing fails"), [(2, 4), (3, 5)]);
}

#[test]
fn protect_reaches_every_source() {
    let (mut union, hands) = three_started(&crooked());
    let mut set = PageSet::new(union.layout());
    union.collect(&mut set).expect("nothing fails");
    // Since the collect, in every one of them.
    hands[0].write(1, 3);
    hands[1].write(1, 4);
    hands[2].write(1, 5);
    union.protect(1, range(3, 130), &mut set).expect("nothing fails");
    assert_eq!(pages(&set), [(1, 3), (1, 4), (1, 5)]);
}

#[test]
fn a_start_that_fails_stops_those_that_had_started() {
    for failing in 0..3 {
        let (mut union, hands) = three(&crooked());
        hands[failing].fail(Call::Start);
        let expected = (failing, NAMES[failing], Planted(Call::Start));
        assert_eq!(failure(union.start()), expected);
        assert!(hands.iter().all(|hand| !hand.is_on()), "off, as it was");
        let started = hands.iter().filter(|hand| hand.count(Call::Start) > 0).count();
        assert_eq!(started, failing + 1, "those after it were not begun");
        union.start().expect("nothing fails now");
        assert!(hands.iter().all(Hand::is_on));
    }
}

#[test]
fn one_that_cannot_be_stopped_again_begins_anew_with_the_next_start() {
    let (mut union, hands) = three(&crooked());
    hands[2].fail(Call::Start);
    hands[0].fail(Call::Stop);
    assert_eq!(failure(union.start()).2, Planted(Call::Start), "the cause, not its consequence");
    assert!(hands[0].is_on() && !hands[1].is_on() && !hands[2].is_on());
    union.start().expect("nothing fails now");
    hands[0].write(0, 1);
    assert_eq!(round(&mut union).expect("nothing fails"), [(0, 1)], "it may have missed writes");
    union.stop().expect("nothing fails now");
    assert!(hands.iter().all(|hand| !hand.is_on()));
}

#[test]
fn a_stop_asks_all_and_gives_the_first_error() {
    let (mut union, hands) = three_started(&crooked());
    hands[0].fail(Call::Stop);
    hands[1].fail(Call::Stop);
    assert_eq!(failure(union.stop()), (0, "first", Planted(Call::Stop)));
    assert!(hands[0].is_on() && hands[1].is_on() && !hands[2].is_on());
    union.stop().expect("nothing fails now");
    assert!(hands.iter().all(|hand| !hand.is_on()));
    assert_eq!(hands[2].count(Call::Stop), 1);
    union.stop().expect("twice is once");
}

/// With one of them stopped, an empty round would be a lie.
#[test]
fn a_union_that_was_half_stopped_gives_no_rounds() {
    let (mut union, hands) = three_started(&crooked());
    hands[0].fail(Call::Stop);
    failure(union.stop());
    let refused = |outcome| matches!(outcome, Err(SourcesError::Misuse(Misuse::Off)));
    let mut set = PageSet::new(union.layout());
    assert!(refused(union.collect(&mut set)));
    assert!(refused(union.protect(0, range(1000, 1), &mut set)));
    assert_eq!(hands[0].count(Call::Collect) + hands[0].count(Call::Protect), 0);
    union.start().expect("nothing fails now");
    assert!(union.collect(&mut set).is_ok());
}

#[test]
fn a_collect_that_fails_loses_nothing() {
    for failing in 0..3 {
        let (mut union, hands) = three_started(&crooked());
        (0..).zip(&hands).for_each(|(page, hand)| hand.write(1, page));
        union.owe(&set_of(union.layout(), &[(0, 9)]));
        hands[failing].fail(Call::Collect);
        let mut set = PageSet::new(union.layout());
        let outcome = union.collect(&mut set);
        assert_eq!(failure(outcome), (failing, NAMES[failing], Planted(Call::Collect)));
        // The caller forgets its round and goes on.
        let found = round(&mut union).expect("nothing fails now");
        assert_eq!(found, [(0, 9), (1, 0), (1, 1), (1, 2)]);
    }
}

#[test]
fn a_protect_that_fails_loses_nothing() {
    for failing in 0..3 {
        let (mut union, hands) = three_started(&crooked());
        let mut set = PageSet::new(union.layout());
        union.collect(&mut set).expect("nothing fails");
        (0..).zip(&hands).for_each(|(page, hand)| hand.write(1, page));
        hands[failing].fail(Call::Protect);
        let outcome = union.protect(1, range(3, 130), &mut set);
        assert_eq!(failure(outcome), (failing, NAMES[failing], Planted(Call::Protect)));
        let found = round(&mut union).expect("nothing fails now");
        assert_eq!(found, [(1, 0), (1, 1), (1, 2)]);
    }
}

#[test]
fn owed_pages_come_back_once_and_in_the_next_round_only() {
    let (mut union, _hands) = three_started(&crooked());
    let mut set = PageSet::new(union.layout());
    union.collect(&mut set).expect("nothing fails");
    union.owe(&set_of(union.layout(), &[(0, 1), (3, 129)]));
    union.protect(0, range(1000, 67), &mut set).expect("nothing fails");
    assert!(set.is_empty(), "a consumer clears the round that they would be in");
    assert_eq!(round(&mut union).expect("nothing fails"), [(0, 1), (3, 129)]);
    assert!(round(&mut union).expect("nothing fails").is_empty());
}

#[test]
fn what_was_owed_before_a_start_is_sent_with_everything() {
    let (mut union, _hands) = three_started(&crooked());
    union.owe(&set_of(union.layout(), &[(0, 1)]));
    union.stop().expect("nothing fails");
    union.start().expect("nothing fails");
    assert!(round(&mut union).expect("nothing fails").is_empty());
}

#[test]
fn a_union_that_is_started_while_it_is_on_begins_anew() {
    let (mut union, hands) = three_started(&crooked());
    hands.iter().for_each(|hand| hand.write(0, 1));
    union.owe(&set_of(union.layout(), &[(0, 2)]));
    union.start().expect("it is on");
    assert!(round(&mut union).expect("nothing fails").is_empty());
    hands[1].write(0, 3);
    assert_eq!(round(&mut union).expect("nothing fails"), [(0, 3)]);
}

#[test]
fn a_start_that_fails_while_on_leaves_all_of_them_off() {
    for failing in 0..3 {
        let (mut union, hands) = three_started(&crooked());
        hands[failing].fail(Call::Start);
        assert_eq!(failure(union.start()).0, failing);
        assert!(hands.iter().all(|hand| !hand.is_on()));
        assert!(round(&mut union).is_err(), "half a union would lose writes");
    }
}

#[test]
fn a_source_over_another_layout_is_refused_with_the_place() {
    let ours = [(AddressSpace::NORMAL, 0, 10), (AddressSpace::NORMAL, 20, 10)];
    let other = |regions: &[_]| mock("other", &layout(regions), Way::Clearing).0;
    let mut union = Sources::new(other(&ours)).expect("memory");
    let refused = |region| Err(JoinError::OtherLayout { region });
    assert_eq!(union.add(other(&ours[..1])), refused(1));
    let more = [ours[0], ours[1], (AddressSpace::SMM, 0, 1)];
    assert_eq!(union.add(other(&more)), refused(2));
    assert_eq!(union.add(other(&[ours[1], ours[0]])), refused(0));
    let longer = [ours[0], (AddressSpace::NORMAL, 20, 11)];
    assert_eq!(union.add(other(&longer)), refused(1));
    let elsewhere = [ours[0], (AddressSpace::SMM, 20, 10)];
    assert_eq!(union.add(other(&elsewhere)), refused(1));
    let renamed: Vec<_> = layout(&ours).regions().to_vec();
    let renamed =
        renamed.into_iter().map(|region| Region { slot: SlotId(7 + region.slot.0), ..region });
    let renamed = Layout::new(renamed.collect()).expect("no overlap");
    assert_eq!(union.add(mock("other", &renamed, Way::Clearing).0), refused(0));
    assert_eq!(union.methods().count(), 1, "none of them joined");
    assert_eq!(union.add(other(&ours)), Ok(()));
}

#[test]
fn nobody_joins_a_union_that_is_on() {
    let (mut union, _hands) = three_started(&crooked());
    let late = || mock("late", &crooked(), Way::Clearing).0;
    assert_eq!(union.add(late()), Err(JoinError::Started));
    union.stop().expect("nothing fails");
    assert_eq!(union.add(late()), Ok(()));
}

#[test]
fn a_round_over_another_layout_is_refused_before_anything_is_taken() {
    let (mut union, hands) = three_started(&crooked());
    hands[0].write(0, 1);
    let mut other = PageSet::new(&layout(&[(AddressSpace::NORMAL, 0, 10)]));
    let outcome = union.collect(&mut other);
    assert!(matches!(outcome, Err(SourcesError::Misuse(Misuse::OtherLayout))));
    assert_eq!(round(&mut union).expect("nothing fails"), [(0, 1)]);
}

#[test]
fn a_union_of_one_has_its_name_and_a_union_of_unions_works() {
    let layout = crooked();
    let (lone, lone_hand) = mock("lone", &layout, Way::Manual);
    let (mut inner, hands) = three(&layout);
    assert_eq!(inner.method(), "union");
    let mut outer = Sources::new(lone).expect("memory");
    assert_eq!(outer.method(), "lone");
    outer.add(&mut inner).expect("the same layout");
    assert_eq!(outer.methods().collect::<Vec<_>>(), ["lone", "union"]);
    outer.start().expect("nothing fails");
    lone_hand.write(0, 0);
    hands[1].write(0, 1);
    assert_eq!(round(&mut outer).expect("nothing fails"), [(0, 0), (0, 1)]);
    hands[1].fail(Call::Collect);
    let error = outer.collect(&mut PageSet::new(&layout)).expect_err("it fails on purpose");
    let says = "source 1 (union): source 1 (second): Collect fails on purpose";
    assert_eq!(error.to_string(), says);
}

#[test]
fn a_union_goes_to_another_thread() {
    fn sendable<T: Send>(sent: T) -> T {
        sent
    }
    let (union, hands) = three_started(&crooked());
    let mut union = std::thread::spawn(move || sendable(union)).join().expect("no panic");
    hands[2].write(0, 0);
    assert_eq!(round(&mut union).expect("nothing fails"), [(0, 0)]);
    assert_eq!(
        std::format!("{union:?}"),
        "Sources { methods: [\"first\", \"second\", \"third\"], state: On }"
    );
}

/// A lent source is the source: each call arrives, `protect` with its default too.
#[test]
fn a_lent_source_gets_every_call() {
    fn of<S: DirtySource>(mut source: S, layout: &Layout) -> Result<Vec<(usize, u64)>, S::Error> {
        assert_eq!((source.method(), source.layout()), ("lent", layout));
        source.start()?;
        source.owe(&PageSet::new(layout));
        let found = round(&mut source)?;
        source.stop()?;
        Ok(found)
    }
    let layout = crooked();
    let (mut lent, hand) = mock("lent", &layout, Way::Manual);
    of(&mut lent, &layout).expect("nothing fails");
    let inside = hand.inside();
    let expected = [Call::Start, Call::Collect].into_iter().chain([Call::Protect; 4]);
    assert!(inside.calls.iter().copied().eq(expected.chain([Call::Stop])));
}

/// A device's log beside that of the vCPUs, which does not see the device.
#[test]
fn device_writes_are_logged() {
    let layout = crooked();
    let (vcpus, hand) = mock("vCPUs", &layout, Way::Clearing);
    let devices = DeviceLog::new(&layout).expect("memory");
    let device = devices.marker();
    let mut union = Sources::new(vcpus).expect("memory");
    union.add(devices).expect("the same layout");
    union.start().expect("nothing fails");
    hand.write(1, 1);
    device.mark(AddressSpace::NORMAL, range(5, 2));
    assert_eq!(round(&mut union).expect("nothing fails"), [(1, 1), (1, 2), (1, 3)]);
}

/// One step of a consumer's life with three sources.
#[derive(Clone, Debug)]
enum Step {
    /// A source sees a write to a region and page.
    Write(usize, usize, u64),
    /// The next such call of a source fails.
    Fail(usize, Call),
    /// A round; what is in it is delivered, or owed, or forgotten where the union said it failed.
    Round(Deliver),
    /// The log is stopped and started, and everything is sent.
    Again,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deliver {
    All,
    Nothing,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let call = prop::sample::select(&[Call::Start, Call::Stop, Call::Collect, Call::Protect][..]);
    let deliver = prop::sample::select(&[Deliver::All, Deliver::Nothing][..]);
    let step = prop_oneof![
        6 => (0usize..3, 0usize..4, 0u64..67).prop_map(|(source, region, page)| {
            Step::Write(source, region, if region == 2 { page % 5 } else { page })
        }),
        2 => (0usize..3, call).prop_map(|(source, call)| Step::Fail(source, call)),
        3 => deliver.prop_map(Step::Round),
        1 => Just(Step::Again),
    ];
    prop::collection::vec(step, 0..60)
}

/// The consumer, and what it has not delivered since it was written.
struct Consumer {
    union: Sources<'static>,
    hands: [Hand; 3],
    pending: BTreeSet<(usize, u64)>,
}

impl Consumer {
    fn take(&mut self, step: Step) {
        match step {
            Step::Write(source, region, page) => {
                self.hands[source].write(region, page);
                self.pending.insert((region, page));
            }
            Step::Fail(source, call) => self.hands[source].fail(call),
            Step::Round(deliver) => self.round(deliver),
            Step::Again => self.again(),
        }
    }

    fn round(&mut self, deliver: Deliver) {
        let Ok(found) = round(&mut self.union) else { return };
        if deliver == Deliver::All {
            found.iter().for_each(|page| {
                self.pending.remove(page);
            });
        } else {
            self.union.owe(&set_of(&crooked(), &found));
        }
    }

    /// What fails here is tried until it does not; starting means that everything is sent.
    fn again(&mut self) {
        while self.union.stop().is_err() {}
        while self.union.start().is_err() {}
        self.pending.clear();
    }
}

proptest! {
    #[test]
    fn whatever_fails_a_paused_guest_has_one_round_with_all_that_is_missing(steps in steps()) {
        let (union, hands) = three_started(&crooked());
        let mut consumer = Consumer { union, hands, pending: BTreeSet::new() };
        steps.into_iter().for_each(|step| consumer.take(step));
        consumer.hands.iter().for_each(|hand| hand.inside().failing = None);
        let last: BTreeSet<_> = round(&mut consumer.union).expect("nothing fails").into_iter().collect();
        let lost: Vec<_> = consumer.pending.difference(&last).collect();
        prop_assert!(lost.is_empty(), "lost: {:?}", lost);
    }
}
