//! Consumers and sources that are wrong on purpose. The oracle must find each, or it finds nothing.

use crate::memory::Memory;
use crate::oracle::{Copy, take};
use crate::{PAGES, each_kind, log_of};
use std::collections::BTreeSet;
use vellum_memory::{DirtySource, GfnRange, Layout, PageSet};
use vellum_process::{ProcessError, ProcessLog};

/// When a consumer reads the pages of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// After the scan, as the contract says.
    ScanFirst,
    /// Before it: a store between the two is lost.
    ReadFirst,
}

/// What is lost where a page is written between reading and scanning, or the other way round.
fn lost_by(order: Order, log: &mut ProcessLog, memory: &Memory) -> BTreeSet<u64> {
    log.start().expect("the log starts");
    let mut copy = Copy::of(memory);
    let mut round = PageSet::new(log.layout());
    memory.write(5, 1);
    if order == Order::ScanFirst {
        take(log, &mut round).expect("a round");
        memory.write(5, 2);
        copy.deliver(&round, memory);
    } else {
        let all = PageSet::full(log.layout());
        copy.deliver(&all, memory);
        memory.write(5, 2);
        take(log, &mut round).expect("a round");
    }
    take(log, &mut round).expect("the last round");
    copy.deliver(&round, memory);
    copy.changed(memory)
}

#[test]
fn reading_pages_before_the_scan_loses_stores_and_the_oracle_says_so() {
    for (order, lost) in [(Order::ScanFirst, None), (Order::ReadFirst, Some(5))] {
        each_kind(|kind, memory| {
            let Some(mut log) = log_of(&memory) else { return };
            let lost = BTreeSet::from_iter(lost);
            assert_eq!(lost_by(order, &mut log, &memory), lost, "{kind:?} {order:?}");
        });
    }
}

/// A log that is wrong in one way.
struct Broken {
    log: ProcessLog,
    how: How,
}

/// How.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// Not at all.
    Sound,
    /// It loses one page a round.
    DropsOnePage,
    /// It forgets what it is owed.
    ForgetsOwed,
}

impl DirtySource for Broken {
    type Error = ProcessError;

    fn method(&self) -> &'static str {
        "broken"
    }

    fn layout(&self) -> &Layout {
        self.log.layout()
    }

    fn start(&mut self) -> Result<(), ProcessError> {
        self.log.start()
    }

    fn stop(&mut self) -> Result<(), ProcessError> {
        self.log.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), ProcessError> {
        self.log.collect(round)?;
        let first = round.regions()[0].pages().next();
        if let (How::DropsOnePage, Some(page)) = (self.how, first) {
            round.regions_mut()[0].remove(page);
        }
        Ok(())
    }

    fn protect(
        &mut self,
        at: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), ProcessError> {
        self.log.protect(at, range, round)
    }

    fn owe(&mut self, pages: &PageSet) {
        if self.how != How::ForgetsOwed {
            self.log.owe(pages);
        }
    }
}

/// Two rounds, the first of which is not delivered.
fn lost_with(how: How, memory: &Memory) -> Option<usize> {
    let mut log = Broken { log: log_of(memory)?, how };
    log.start().expect("the log starts");
    let mut copy = Copy::of(memory);
    let mut round = PageSet::new(log.layout());
    (0..PAGES).step_by(9).for_each(|page| memory.write(page, 1));
    take(&mut log, &mut round).expect("a round");
    log.owe(&round);
    (0..PAGES).step_by(10).for_each(|page| memory.write(page, 2));
    take(&mut log, &mut round).expect("a round");
    copy.deliver(&round, memory);
    let lost = copy.changed(memory).len();
    Some(lost)
}

#[test]
fn a_page_that_is_dropped_or_forgotten_is_found_missing() {
    each_kind(|kind, memory| {
        let Some(sound) = lost_with(How::Sound, &memory) else { return };
        let [dropped, forgotten] =
            [How::DropsOnePage, How::ForgetsOwed].map(|how| lost_with(how, &clean(kind)));
        assert_eq!(sound, 0, "{kind:?}");
        assert_eq!(dropped, Some(1), "{kind:?}");
        assert!(forgotten > Some(100), "{kind:?}: {forgotten:?}");
    });
}

fn clean(kind: crate::memory::Kind) -> Memory {
    Memory::new(kind, PAGES).expect("memory")
}
