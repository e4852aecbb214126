use super::*;
use crate::scene::{crooked, layout, pages, range, round, set_of};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::vec::Vec;

const NORMAL: AddressSpace = AddressSpace::NORMAL;

fn started(layout: &Layout) -> (DeviceLog, Marker) {
    let mut log = DeviceLog::new(layout).expect("memory");
    log.start().expect("it starts");
    let marker = log.marker();
    (log, marker)
}

/// Which pages of which regions a mark is about, the slow way.
fn expected(layout: &Layout, space: AddressSpace, marked: GfnRange) -> Vec<(usize, u64)> {
    let regions = layout.regions().iter().enumerate();
    let regions = regions.filter(|(_, region)| region.space == space);
    let page_of = |region: &Region, page| region.range.offset_of(Gfn::new(page));
    regions
        .flat_map(|(index, region)| {
            let numbers = marked.first().get()..marked.end().get();
            numbers.filter_map(move |page| Some((index, page_of(region, page)?)))
        })
        .collect()
}

proptest! {
    #[test]
    fn a_round_is_what_was_marked_since_the_last(
        rounds in prop::collection::vec(
            prop::collection::vec((any::<bool>(), 0u64..1100, 0u64..200), 0..8), 1..4),
    ) {
        let layout = crooked();
        let (mut log, marker) = started(&layout);
        for marks in rounds {
            let mut model = BTreeSet::new();
            for (normal, first, count) in marks {
                let space = if normal { NORMAL } else { AddressSpace::SMM };
                marker.mark(space, range(first, count));
                model.extend(expected(&layout, space, range(first, count)));
            }
            for &(region, page) in &model {
                let Region { space, range, .. } = layout.regions()[region];
                prop_assert!(marker.is_marked(space, Gfn::new(range.first().get() + page)));
            }
            let round = round(&mut log).expect("it is on");
            prop_assert_eq!(round, model.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_slot_that_ends_clean_does_not_shift_the_next() {
    let (mut log, marker) = started(&crooked());
    marker.mark(NORMAL, range(135, 1));
    assert_eq!(round(&mut log), Ok(std::vec![(2, 2)]));
}

#[test]
fn a_mark_reaches_into_the_neighbour_and_no_further() {
    let (mut log, marker) = started(&crooked());
    marker.mark(NORMAL, range(131, 1 << 40));
    let second = [(1, 128), (1, 129)];
    let third = (0..5).map(|page| (2, page));
    let first = (0..67).map(|page| (0, page));
    assert_eq!(round(&mut log), Ok(first.chain(second).chain(third).collect()));
}

#[test]
fn a_mark_of_everything_there_is_ends() {
    let (mut log, marker) = started(&crooked());
    marker.mark(NORMAL, range(0, u64::MAX));
    assert_eq!(round(&mut log).expect("it is on").len(), 67 + 130 + 5);
}

#[test]
fn what_was_marked_while_the_log_was_off_is_in_no_round() {
    let mut log = DeviceLog::new(&crooked()).expect("memory");
    let marker = log.marker();
    marker.mark(NORMAL, range(3, 1));
    assert!(!marker.is_marked(NORMAL, Gfn::new(3)));
    log.start().expect("it starts");
    marker.mark(NORMAL, range(4, 1));
    log.stop().expect("it stops");
    log.stop().expect("twice is once");
    marker.mark(NORMAL, range(5, 1));
    log.start().expect("it starts again");
    assert_eq!(round(&mut log), Ok(Vec::new()), "a consumer sends everything first");
}

#[test]
fn a_log_that_is_started_while_it_is_on_begins_anew() {
    let layout = crooked();
    let (mut log, marker) = started(&layout);
    marker.mark(NORMAL, range(3, 1));
    log.owe(&set_of(&layout, &[(0, 66)]));
    log.start().expect("it is on");
    assert_eq!(round(&mut log), Ok(Vec::new()));
    marker.mark(NORMAL, range(3, 1));
    assert_eq!(round(&mut log), Ok(std::vec![(1, 0)]));
}

#[test]
fn a_log_that_is_off_does_not_say_that_nothing_is_dirty() {
    let mut log = DeviceLog::new(&crooked()).expect("memory");
    assert_eq!(round(&mut log), Err(Misuse::Off));
    log.start().expect("it starts");
    log.stop().expect("it stops");
    assert_eq!(round(&mut log), Err(Misuse::Off));
}

#[test]
fn a_round_over_another_layout_is_refused_and_takes_nothing() {
    let (mut log, marker) = started(&crooked());
    marker.mark(NORMAL, range(3, 1));
    let mut other = PageSet::new(&layout(&[(NORMAL, 3, 130)]));
    assert_eq!(log.collect(&mut other), Err(Misuse::OtherLayout));
    assert!(other.is_empty());
    assert_eq!(round(&mut log), Ok(std::vec![(1, 0)]));
}

#[test]
fn owed_pages_are_in_the_next_round_with_what_was_marked() {
    let layout = crooked();
    let (mut log, marker) = started(&layout);
    marker.mark(NORMAL, range(3, 2));
    log.owe(&set_of(&layout, &[(0, 66), (1, 1), (3, 129)]));
    assert_eq!(round(&mut log), Ok(std::vec![(0, 66), (1, 0), (1, 1), (3, 129)]));
    assert_eq!(round(&mut log), Ok(Vec::new()));
}

#[test]
fn pages_owed_over_another_layout_do_no_harm() {
    let (mut log, _) = started(&layout(&[(NORMAL, 0, 10)]));
    log.owe(&PageSet::full(&layout(&[(NORMAL, 0, 1000), (AddressSpace::SMM, 0, 10)])));
    assert_eq!(round(&mut log).expect("it is on").len(), 10);
}

#[test]
fn a_marker_outlives_its_log_and_is_off() {
    let (log, marker) = started(&crooked());
    drop(log);
    marker.mark(NORMAL, range(3, 1));
    assert!(!marker.is_marked(NORMAL, Gfn::new(3)));
}

#[test]
fn a_layout_too_large_for_a_bitmap_is_an_error() {
    assert!(DeviceLog::new(&layout(&[(NORMAL, 0, 1 << 60)])).is_err());
}

/// Devices that count in the pages of a guest, and a consumer that copies what the log gives it.
#[test]
fn rounds_during_writes_and_one_after_copy_everything() {
    const PAGES: usize = 200;
    let layout = layout(&[(NORMAL, 7, PAGES as u64)]);
    let (mut log, marker) = started(&layout);
    let guest: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let mut copies = std::vec![0; PAGES];
    let mut copy_round = |log: &mut DeviceLog| {
        for (_, page) in round(log).expect("it is on") {
            let page = usize::try_from(page).expect("a page");
            copies[page] = guest[page].load(Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let device = |seed: u64| {
            let (guest, marker) = (&guest, marker.clone());
            move || {
                let mut random = seed;
                for _ in 0..50_000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let page = (random >> 33) % PAGES as u64;
                    guest[usize::try_from(page).expect("a page")].fetch_add(1, Ordering::Relaxed);
                    marker.mark(NORMAL, range(7 + page, 1));
                }
            }
        };
        let devices = [scope.spawn(device(1)), scope.spawn(device(2))];
        while !devices.iter().all(thread::ScopedJoinHandle::is_finished) {
            copy_round(&mut log);
        }
    });
    copy_round(&mut log);
    let guest: Vec<_> = guest.iter().map(|page| page.load(Ordering::Relaxed)).collect();
    assert_eq!(guest.iter().sum::<u64>(), 100_000);
    assert_eq!(guest, copies);
}

#[test]
fn a_log_and_its_markers_go_to_other_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Marker>();
    shareable::<DeviceLog>();
    let (log, _) = started(&layout(&[(NORMAL, 0, 1)]));
    assert!(std::format!("{log:?} {:?}", log.marker()).contains("On"));
    assert_eq!(log.method(), "device marks");
    assert!(pages(&PageSet::new(log.layout())).is_empty());
}
