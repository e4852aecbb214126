//! Writers against a consumer that reads pages. Each scenario has a mistake that loom must object to.
//!
//! Run with `cargo xtask loom`.

use super::marks::Bug;
use super::*;
use crate::sync::AtomicU64;
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vellum_pte::SlotId;

/// In which order a device does its two things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Device {
    WritesFirst,
    MarksFirst,
}

/// One page of a guest, its log, and the copy at the destination.
struct Guest {
    page: Arc<AtomicU64>,
    log: DeviceLog,
    copy: u64,
}

const PAGE: u64 = 1;

impl Guest {
    fn new(planted: Option<Bug>) -> Self {
        let range = GfnRange::new(Gfn::new(0), 2).expect("in range");
        let region = Region { slot: SlotId(0), space: AddressSpace::NORMAL, range };
        let layout = Layout::new(std::vec![region]).expect("one region");
        let mut log = DeviceLog::new(&layout).expect("memory");
        let shared = Arc::get_mut(&mut log.shared).expect("not yet shared");
        shared.regions[0].planted = planted;
        Self { page: Arc::new(AtomicU64::new(0)), log, copy: 0 }
    }

    /// A device that writes each of the values.
    fn device<const N: usize>(&self, order: Device, values: [u64; N]) -> impl FnOnce() + use<N> {
        let (page, marker) = (self.page.clone(), self.log.marker());
        move || {
            for value in values {
                if order == Device::MarksFirst {
                    mark(&marker);
                }
                page.store(value, Ordering::Relaxed);
                if order == Device::WritesFirst {
                    mark(&marker);
                }
            }
        }
    }

    /// Copies the page if the log says so.
    fn round(&mut self) -> bool {
        let mut round = PageSet::new(self.log.layout());
        self.log.collect(&mut round).expect("it is on");
        let dirty = round.regions()[0].contains(PAGE);
        if dirty {
            self.copy = self.page.load(Ordering::Relaxed);
        }
        dirty
    }

    fn must_be_whole(&self) {
        assert_eq!(self.copy, self.page.load(Ordering::Relaxed), "a write was lost");
    }
}

fn mark(marker: &Marker) {
    mark_page(marker, PAGE);
}

fn mark_page(marker: &Marker, page: u64) {
    marker.mark(AddressSpace::NORMAL, GfnRange::new(Gfn::new(page), 1).expect("in range"));
}

/// Runs both at the same time, the spawned one being the one that loom begins with or not, and
/// returns the guest when both are over.
fn together(
    first: First,
    mut guest: Guest,
    device: impl FnOnce() + 'static,
    consumer: impl FnOnce(&mut Guest) + 'static,
) -> Guest {
    match first {
        First::Consumer => {
            let device = thread::spawn(device);
            consumer(&mut guest);
            device.join().expect("no panic");
            guest
        }
        First::Device => {
            let consumer = thread::spawn(move || {
                consumer(&mut guest);
                guest
            });
            device();
            consumer.join().expect("no panic")
        }
    }
}

/// A device that writes twice, against a round while it runs and one when it is paused.
fn rounds(first: First, order: Device, planted: Option<Bug>) {
    let mut guest = Guest::new(planted);
    guest.log.start().expect("it starts");
    let device = guest.device(order, [1, 2]);
    let mut guest = together(first, guest, device, |guest| {
        guest.round();
    });
    guest.round();
    guest.must_be_whole();
}

/// A device that writes while the log starts; the consumer sends everything first.
fn start(first: First, planted: Option<Bug>) {
    let guest = Guest::new(planted);
    let device = guest.device(Device::WritesFirst, [1]);
    let mut guest = together(first, guest, device, |guest| {
        guest.log.start().expect("it starts");
        guest.copy = guest.page.load(Ordering::Relaxed);
    });
    guest.round();
    guest.must_be_whole();
}

/// A device that writes twice while a log that is on begins anew; the consumer sends everything first.
fn begin_anew(first: First, planted: Option<Bug>) {
    let mut guest = Guest::new(planted);
    guest.log.start().expect("it starts");
    let device = guest.device(Device::WritesFirst, [1, 2]);
    let mut guest = together(first, guest, device, |guest| {
        guest.log.start().expect("it starts again");
        guest.copy = guest.page.load(Ordering::Relaxed);
    });
    guest.round();
    guest.must_be_whole();
}

/// A device marks a page in a word that can be found already, while a round takes that word.
fn word_in_use(first: First, planted: Option<Bug>) {
    let mut guest = Guest::new(planted);
    guest.log.start().expect("it starts");
    mark_page(&guest.log.marker(), PAGE - 1);
    let device = guest.device(Device::WritesFirst, [1]);
    let mut guest = together(first, guest, device, |guest| {
        guest.round();
    });
    guest.round();
    guest.must_be_whole();
}

/// Two devices write to one page; one of them may be anywhere in its mark when the other has
/// returned from its own.
fn two_devices(first: First, planted: Option<Bug>) {
    let mut guest = Guest::new(planted);
    guest.log.start().expect("it starts");
    let slow = guest.device(Device::WritesFirst, [1]);
    together(first, guest, slow, |guest| {
        mark(&guest.log.marker());
        assert!(guest.round(), "a write was lost");
    });
}

/// Which thread loom lets begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum First {
    Consumer,
    Device,
}

/// Loom's search does not see everything from one beginning (`docs/ordering.md`), hence both. At most
/// three interruptions a thread, unless `LOOM_MAX_PREEMPTIONS` says otherwise.
fn explore(scenario: impl Fn(First) + Copy + Sync + Send + 'static) {
    for first in [First::Consumer, First::Device] {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound.get_or_insert(3);
        builder.check(move || scenario(first));
    }
}

fn must_object(scenario: impl Fn(First) + Copy + Sync + Send + 'static) {
    let panic = catch_unwind(AssertUnwindSafe(|| explore(scenario))).err();
    // Any other panic is not an objection.
    let objects = panic.is_some_and(|panic| {
        let said = panic.downcast_ref::<std::string::String>().map(std::string::String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied());
        said.is_some_and(|said| said.contains("a write was lost"))
    });
    assert!(objects, "loom did not object");
}

#[test]
fn a_write_is_in_the_round_that_reads_it_or_in_a_later_one() {
    explore(|first| rounds(first, Device::WritesFirst, None));
}

#[test]
fn a_mark_in_a_word_that_is_being_taken_is_found() {
    explore(|first| word_in_use(first, None));
}

#[test]
fn looking_whether_a_word_can_be_found_without_a_barrier_loses_a_write() {
    must_object(|first| word_in_use(first, Some(Bug::RaiseEarly)));
}

#[test]
fn marking_before_writing_loses_the_write() {
    must_object(|first| rounds(first, Device::MarksFirst, None));
}

#[test]
fn looking_for_a_mark_without_a_barrier_loses_a_write() {
    must_object(|first| rounds(first, Device::WritesFirst, Some(Bug::LookEarly)));
}

#[test]
fn reading_pages_without_a_barrier_loses_a_write() {
    must_object(|first| rounds(first, Device::WritesFirst, Some(Bug::ReadEarly)));
}

#[test]
fn a_write_while_the_log_begins_anew_is_sent_first_or_logged() {
    explore(|first| begin_anew(first, None));
}

#[test]
fn looking_for_a_mark_without_a_barrier_while_the_log_begins_anew_loses_a_write() {
    must_object(|first| begin_anew(first, Some(Bug::LookEarly)));
}

#[test]
fn a_write_while_the_log_starts_is_sent_first_or_logged() {
    explore(|first| start(first, None));
}

#[test]
fn looking_whether_the_log_is_on_without_a_barrier_loses_a_write() {
    must_object(|first| start(first, Some(Bug::LookEarly)));
}

#[test]
fn a_mark_that_has_returned_is_found_whoever_else_is_marking() {
    explore(|first| two_devices(first, None));
}

#[test]
fn trusting_a_bit_that_is_set_hides_a_mark() {
    must_object(|first| two_devices(first, Some(Bug::TrustWord)));
}
