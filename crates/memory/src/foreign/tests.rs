use super::*;
use crate::scene::{crooked, layout, range, round, set_of};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::vec::Vec;

const NORMAL: AddressSpace = AddressSpace::NORMAL;

/// A bitmap as a mapping would be, which the test holds as the other process does.
type Shared = Arc<[AtomicU64]>;

fn bitmap(words: usize) -> Shared {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// What a vhost back-end does: `log[page / 8] |= 1 << page % 8`, on bytes.
fn set(bits: &Shared, page: u64) {
    let cell = &bits[index(page / 64)];
    let mut bytes = [0u8; 8];
    bytes[index(page / 8 % 8)] = 1 << (page % 8);
    cell.fetch_or(u64::from_ne_bytes(bytes), Ordering::Release);
}

fn is_set(bits: &Shared, page: u64) -> bool {
    let bytes = bits[index(page / 64)].load(Ordering::Relaxed).to_ne_bytes();
    bytes[index(page / 8 % 8)] >> (page % 8) & 1 != 0
}

fn started(layout: &Layout, bits: &Shared) -> ForeignLog<Shared, AlwaysLogs> {
    let log = ForeignLog::new(layout, NORMAL, bits.clone(), AlwaysLogs);
    let mut log = log.expect("the bitmap is long enough");
    log.start().expect("it starts");
    log
}

proptest! {
    /// Also of pages that are in no region, and with more bits in a word than the region has.
    #[test]
    fn a_round_is_what_was_set_since_the_last(
        first in 0u64..200, pages in 1u64..300,
        rounds in prop::collection::vec(prop::collection::vec(0u64..640, 0..40), 1..4),
    ) {
        let layout = layout(&[(NORMAL, first, pages), (NORMAL, first + pages, 3)]);
        let bits = bitmap(10);
        let mut log = started(&layout, &bits);
        for set_pages in rounds {
            let mut model = BTreeSet::new();
            for page in set_pages {
                set(&bits, page);
                for (index, region) in layout.regions().iter().enumerate() {
                    model.extend(region.range.offset_of(Gfn::new(page)).map(|page| (index, page)));
                }
            }
            prop_assert_eq!(round(&mut log).expect("it is on"), model.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn bits_of_pages_in_no_region_are_ignored_and_left_alone() {
    let bits = bitmap(20);
    let mut log = started(&crooked(), &bits);
    bits.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
    let found = round(&mut log).expect("it is on");
    assert_eq!(found.len(), 67 + 130 + 5, "each page of the space once, and no other");
    for page in 0..20 * 64 {
        let ours = (3..138).contains(&page) || (1000..1067).contains(&page);
        assert_eq!(is_set(&bits, page), !ours, "page {page}");
    }
}

#[test]
fn a_slot_that_ends_clean_does_not_shift_the_next() {
    let bits = bitmap(20);
    let mut log = started(&crooked(), &bits);
    // The second region ends within the word in which the third begins.
    set(&bits, 133);
    assert_eq!(round(&mut log).expect("it is on"), [(2, 0)]);
    set(&bits, 132);
    assert_eq!(round(&mut log).expect("it is on"), [(1, 129)]);
}

#[test]
fn regions_of_another_address_space_are_never_dirty() {
    let layout = crooked();
    let bits = bitmap(20);
    set(&bits, 3);
    let log = ForeignLog::new(&layout, AddressSpace::SMM, bits.clone(), AlwaysLogs);
    let mut log = log.expect("long enough");
    log.start().expect("it starts");
    assert!(!is_set(&bits, 3), "a leftover");
    (0..20 * 64).for_each(|page| set(&bits, page));
    let found = round(&mut log).expect("it is on");
    assert_eq!(found, (0..130).map(|page| (3, page)).collect::<Vec<_>>());
}

#[test]
fn a_bitmap_without_a_bit_for_the_last_page_is_refused() {
    let made = |words| ForeignLog::new(&crooked(), NORMAL, bitmap(words), AlwaysLogs).map(|_| ());
    assert_eq!(made(17), Ok(()));
    assert_eq!(made(16), Err(BitmapError::TooShort { region: 0, page: Gfn::new(1066) }));
    assert_eq!(made(2), Err(BitmapError::TooShort { region: 0, page: Gfn::new(1066) }));
    let endless = layout(&[(NORMAL, u64::MAX - 5, 5)]);
    let refused = ForeignLog::new(&endless, NORMAL, bitmap(16), AlwaysLogs).map(|_| ());
    assert_eq!(refused, Err(BitmapError::TooShort { region: 0, page: Gfn::new(u64::MAX - 1) }));
}

/// A bitmap that loses its end.
struct Shrinking(Vec<AtomicU64>, AtomicU64);

impl SharedBits for Shrinking {
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        let length = usize::try_from(self.1.load(Ordering::Relaxed)).expect("a length");
        self.0[..length].get(index)
    }
}

#[test]
fn what_is_past_the_end_of_a_bitmap_that_shrinks_counts_as_dirty() {
    let words = (0..3).map(|_| AtomicU64::new(0)).collect();
    let bits = Shrinking(words, AtomicU64::new(3));
    let layout = layout(&[(NORMAL, 10, 130)]);
    let mut log = ForeignLog::new(&layout, NORMAL, bits, AlwaysLogs).expect("long enough");
    log.start().expect("it starts");
    assert!(round(&mut log).expect("it is on").is_empty());
    log.bits.1.store(1, Ordering::Relaxed);
    let found = round(&mut log).expect("it is on");
    assert_eq!(found, (54..130).map(|page| (0, page)).collect::<Vec<_>>());
}

#[test]
fn owed_pages_come_back_though_others_clear_the_bitmap() {
    let layout = crooked();
    let bits = bitmap(20);
    let mut log = started(&layout, &bits);
    set(&bits, 3);
    log.owe(&set_of(&layout, &[(0, 66), (3, 129)]));
    bits.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    assert_eq!(round(&mut log).expect("it is on"), [(0, 66), (3, 129)]);
    assert!(round(&mut log).expect("it is on").is_empty());
}

#[test]
fn a_log_that_is_off_does_not_say_that_nothing_is_dirty() {
    let log = ForeignLog::new(&crooked(), NORMAL, bitmap(20), AlwaysLogs);
    let mut log = log.expect("long enough");
    assert_eq!(round(&mut log), Err(ForeignError::Misuse(Misuse::Off)));
    log.start().expect("it starts");
    let mut other = PageSet::new(&layout(&[(NORMAL, 3, 130)]));
    assert_eq!(log.collect(&mut other), Err(ForeignError::Misuse(Misuse::OtherLayout)));
    log.stop().expect("it stops");
    assert_eq!(round(&mut log), Err(ForeignError::Misuse(Misuse::Off)));
}

#[test]
fn a_log_that_is_started_while_it_is_on_begins_anew() {
    let layout = crooked();
    let bits = bitmap(20);
    let mut log = started(&layout, &bits);
    set(&bits, 3);
    log.owe(&set_of(&layout, &[(0, 66)]));
    log.start().expect("it is on");
    assert!(round(&mut log).expect("it is on").is_empty());
    set(&bits, 4);
    assert_eq!(round(&mut log).expect("it is on"), [(1, 1)]);
}

/// A writer that can refuse, and that writes while it is told.
struct Moody {
    bits: Shared,
    on: bool,
    refuses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the back-end is gone")]
struct Gone;

impl Moody {
    fn turn(&mut self, on: bool) -> Result<(), Gone> {
        if self.refuses {
            return Err(Gone);
        }
        self.on = on;
        set(&self.bits, 4);
        Ok(())
    }
}

impl ForeignWriter for Moody {
    type Error = Gone;

    fn start_logging(&mut self) -> Result<(), Gone> {
        self.turn(true)
    }

    fn stop_logging(&mut self) -> Result<(), Gone> {
        self.turn(false)
    }
}

#[test]
fn a_writer_that_refuses_leaves_the_log_as_it_was() {
    let bits = bitmap(20);
    let writer = Moody { bits: bits.clone(), on: false, refuses: true };
    let mut log = ForeignLog::new(&crooked(), NORMAL, bits.clone(), writer).expect("long enough");
    assert_eq!(log.stop(), Ok(()), "nothing to stop");
    assert_eq!(log.start(), Err(ForeignError::Writer(Gone)));
    assert_eq!(round(&mut log), Err(ForeignError::Misuse(Misuse::Off)));
    log.writer_mut().refuses = false;
    set(&bits, 3);
    log.start().expect("it starts");
    let found = round(&mut log).expect("it is on");
    assert_eq!(found, [(1, 1)], "the leftover is gone, what was set while starting is not");
    log.writer_mut().refuses = true;
    assert_eq!(log.stop(), Err(ForeignError::Writer(Gone)));
    set(&bits, 5);
    assert_eq!(round(&mut log).expect("it goes on"), [(1, 2)]);
    log.writer_mut().refuses = false;
    assert_eq!(log.stop(), Ok(()));
    assert!(!log.writer_mut().on);
}

#[test]
fn a_writer_that_stopped_and_could_not_say_so_is_told_to_begin() {
    let bits = bitmap(20);
    let writer = Moody { bits: bits.clone(), on: false, refuses: false };
    let mut log = ForeignLog::new(&crooked(), NORMAL, bits.clone(), writer).expect("long enough");
    log.start().expect("it starts");
    log.writer_mut().refuses = true;
    assert_eq!(log.stop(), Err(ForeignError::Writer(Gone)));
    log.writer_mut().on = false;
    assert_eq!(log.start(), Err(ForeignError::Writer(Gone)));
    assert_eq!(round(&mut log), Err(ForeignError::Misuse(Misuse::Off)), "it may not log");
    log.writer_mut().refuses = false;
    log.start().expect("it starts");
    assert!(log.writer_mut().on, "nobody knew whether it logs");
}

/// A writer in another thread that counts in the pages of a guest, and a consumer that copies.
#[test]
fn rounds_during_writes_and_one_after_copy_everything() {
    const PAGES: u64 = 100;
    let layout = layout(&[(NORMAL, 30, PAGES)]);
    let bits = bitmap(3);
    let mut log = started(&layout, &bits);
    let guest: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let mut copies = std::vec![0; guest.len()];
    let mut copy_round = |log: &mut ForeignLog<_, _>| {
        for (_, page) in round(log).expect("it is on") {
            copies[index(page)] = guest[index(page)].load(Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for step in 0..100_000 {
                let page = step * step % 97;
                guest[index(page)].fetch_add(1, Ordering::Relaxed);
                set(&bits, 30 + page);
            }
        });
        while !writer.is_finished() {
            copy_round(&mut log);
        }
    });
    copy_round(&mut log);
    let guest: Vec<_> = guest.iter().map(|page| page.load(Ordering::Relaxed)).collect();
    assert_eq!(guest.iter().sum::<u64>(), 100_000);
    assert_eq!(guest, copies);
}

#[test]
fn a_foreign_log_says_what_it_is() {
    let log = started(&crooked(), &bitmap(20));
    assert_eq!(log.method(), "foreign bitmap");
    assert_eq!(log.layout(), &crooked());
    assert!(std::format!("{log:?}").contains("On"));
    assert_eq!(range(1000, 67), log.layout().regions()[0].range);
}
