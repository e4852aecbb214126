//! Consumers and sources that are wrong on purpose. The oracle must find each, or it finds nothing.

use crate::native::{DATA, Machine, Vcpu};
use crate::oracle::{Copy, Lost, Order, named, protect};
use crate::{PAGES, apart, each_ring, each_way, is_manual};
use vellum_kvm::{KvmError, KvmLog, Way};
use vellum_memory::{DirtySource, GfnRange, Layout, PageSet};

/// A round during which the guest runs once between reading pages and protecting them, or the other
/// way round.
fn round(
    log: &mut impl DirtySource,
    vcpus: &mut [Vcpu],
    order: Order,
    mut copy: impl FnMut(&PageSet),
) {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("a collection");
    if order == Order::CopyFirst {
        copy(&round);
    }
    vcpus.iter_mut().for_each(Vcpu::round);
    protect(log, &mut round).expect("a protection");
    if order == Order::ProtectFirst {
        copy(&round);
    }
}

/// What is lost in a few rounds, and one more with the guest standing.
fn outcome(machine: &mut Machine, order: Order) -> Result<(), Lost> {
    let Machine { log, vcpus, memory, .. } = machine;
    log.start().expect("the log starts");
    let mut copy = Copy::of(memory);
    for _ in 0..10 {
        vcpus.iter_mut().for_each(Vcpu::round);
        round(log, vcpus, order, |pages| copy.deliver(pages, memory));
    }
    round(log, &mut [], Order::ProtectFirst, |pages| copy.deliver(pages, memory));
    copy.is_whole(memory)
}

#[test]
fn reading_pages_before_they_are_protected_loses_stores_and_the_oracle_says_so() {
    // So few stores that no ring is full: emptying it would protect pages in time.
    each_way(&apart(150), |mut machine| {
        let way = machine.log.way();
        assert_eq!(outcome(&mut machine, Order::ProtectFirst), Ok(()), "{way}");
    });
    each_way(&apart(150), |mut machine| {
        let way = machine.log.way();
        let outcome = outcome(&mut machine, Order::CopyFirst);
        // A get that clears has protected them already.
        assert_eq!(outcome.is_err(), way != Way::ClearingGet, "{way}: {outcome:?}");
    });
}

/// A log that is wrong in one way.
struct Broken {
    log: KvmLog,
    how: How,
    /// The page that this round has lost.
    dropped: Option<u64>,
}

/// How.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// Its `protect` does nothing.
    ProtectsNothing,
    /// It loses one page of the data region a round.
    DropsOnePage,
}

impl DirtySource for Broken {
    type Error = KvmError;

    fn method(&self) -> &'static str {
        "broken"
    }

    fn layout(&self) -> &Layout {
        self.log.layout()
    }

    fn start(&mut self) -> Result<(), KvmError> {
        self.log.start()
    }

    fn stop(&mut self) -> Result<(), KvmError> {
        self.log.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), KvmError> {
        self.dropped = None;
        self.log.collect(round)?;
        let first = round.regions()[DATA].pages().next();
        if let (How::DropsOnePage, Some(page)) = (self.how, first) {
            round.regions_mut()[DATA].remove(page);
            self.dropped = Some(page);
        }
        Ok(())
    }

    fn protect(&mut self, at: usize, range: GfnRange, round: &mut PageSet) -> Result<(), KvmError> {
        match self.how {
            How::ProtectsNothing => Ok(()),
            // What is to be lost is protected like the rest: a page that is not in the round any more
            // keeps its bit.
            How::DropsOnePage => {
                self.dropped.iter().for_each(|page| round.regions_mut()[DATA].insert(*page));
                self.log.protect(at, range, round)?;
                self.dropped.iter().for_each(|page| round.regions_mut()[DATA].remove(*page));
                Ok(())
            }
        }
    }

    fn owe(&mut self, pages: &PageSet) {
        self.log.owe(pages);
    }
}

/// Two rounds of a broken log: whether each named what had changed, and the last one's size.
fn two_rounds(machine: Machine, how: How) -> (Result<(), Lost>, u64) {
    let Machine { log, mut vcpus, memory, vm: _vm, .. } = machine;
    let mut log = Broken { log, how, dropped: None };
    let mut set = PageSet::new(log.layout());
    log.start().expect("the log starts");
    let mut copy = Copy::of(&memory);
    let mut found = Ok(());
    for _ in 0..2 {
        vcpus.iter_mut().for_each(Vcpu::round);
        let changed = copy.changed(DATA, &memory);
        crate::oracle::take(&mut log, &mut set).expect("a round");
        found = found.and(named(&set, &changed));
        copy.deliver(&set, &memory);
    }
    let last = {
        crate::oracle::take(&mut log, &mut set).expect("a round");
        set.regions()[DATA].count()
    };
    (found, last)
}

#[test]
fn a_page_that_is_dropped_is_found_missing() {
    each_way(&apart(200), |machine| {
        let way = machine.log.way();
        let (found, _) = two_rounds(machine, How::DropsOnePage);
        // All set, the first round has more than what changed, and the page is lost in the second.
        assert!(found.is_err(), "{way}");
    });
}

#[test]
fn a_clear_that_is_left_out_never_ends() {
    each_way(&apart(200), |machine| {
        if !is_manual(machine.log.way()) {
            return;
        }
        let way = machine.log.way();
        let (found, standing) = two_rounds(machine, How::ProtectsNothing);
        assert_eq!(found, Ok(()), "{way}");
        assert!(standing > 0 && standing <= PAGES, "{way}: the guest stands, and pages are dirty");
    });
}

#[test]
fn a_reset_that_is_left_out_loses_the_next_store_to_a_page() {
    each_ring(&apart(200), |machine| {
        let Machine { log, mut vcpus, memory, vm: _vm, .. } = machine;
        let mut log = Broken { log, how: How::ProtectsNothing, dropped: None };
        let mut set = PageSet::new(log.layout());
        log.start().expect("the log starts");
        let mut copy = Copy::of(&memory);
        let rounds = (0..3).map(|_| {
            vcpus.iter_mut().for_each(Vcpu::round);
            let changed = copy.changed(DATA, &memory);
            crate::oracle::take(&mut log, &mut set).expect("a round");
            copy.deliver(&set, &memory);
            named(&set, &changed)
        });
        assert!(rounds.fold(Ok(()), Result::and).is_err());
    });
}
