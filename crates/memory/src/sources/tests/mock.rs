//! A source that can be told to fail, and the test's hand on it.

use crate::*;
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

/// A source that can be told to fail, and that watches how it is used.
pub(super) struct Mock {
    name: &'static str,
    layout: Layout,
    way: Way,
    shared: Arc<Mutex<Inside>>,
}

/// How a mock's `collect` works, after those that exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// `collect` takes and clears.
    Clearing,
    /// `collect` only looks; `protect` takes and clears, range by range.
    Manual,
}

pub(super) struct Inside {
    on: bool,
    /// Since it could not be stopped: it is on, and sees nothing until it is started.
    deaf: bool,
    dirty: PageSet,
    pub(super) calls: Vec<Call>,
    pub(super) failing: Option<Call>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Start,
    Stop,
    Collect,
    Protect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} fails on purpose")]
pub(super) struct Planted(pub(super) Call);

/// The test's hand on a mock.
#[derive(Clone)]
pub(super) struct Hand(Arc<Mutex<Inside>>);

impl Hand {
    pub(super) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("no mock panics with it")
    }

    /// A write that the mock sees.
    pub(super) fn write(&self, region: usize, page: u64) {
        let mut inside = self.inside();
        if inside.on && !inside.deaf {
            inside.dirty.regions_mut()[region].insert(page);
        }
    }

    /// The next such call fails.
    pub(super) fn fail(&self, call: Call) {
        self.inside().failing = Some(call);
    }

    pub(super) fn is_on(&self) -> bool {
        self.inside().on
    }

    pub(super) fn count(&self, call: Call) -> usize {
        self.inside().calls.iter().filter(|&&made| made == call).count()
    }
}

pub(super) fn mock(name: &'static str, layout: &Layout, way: Way) -> (Mock, Hand) {
    let (dirty, calls) = (PageSet::new(layout), Vec::new());
    let shared =
        Arc::new(Mutex::new(Inside { on: false, deaf: false, dirty, calls, failing: None }));
    let hand = Hand(shared.clone());
    (Mock { name, layout: layout.clone(), way, shared }, hand)
}

impl Mock {
    /// Notes the call, and whether it fails.
    fn enter(&self, call: Call) -> (MutexGuard<'_, Inside>, Result<(), Planted>) {
        let mut inside = self.shared.lock().expect("no mock panics with it");
        inside.calls.push(call);
        let fails = inside.failing == Some(call);
        if fails {
            inside.failing = None;
        }
        (inside, if fails { Err(Planted(call)) } else { Ok(()) })
    }
}

impl DirtySource for Mock {
    type Error = Planted;

    fn method(&self) -> &'static str {
        self.name
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn start(&mut self) -> Result<(), Planted> {
        let (mut inside, outcome) = self.enter(Call::Start);
        inside.on = outcome.is_ok();
        inside.deaf = false;
        inside.dirty.clear();
        outcome
    }

    fn stop(&mut self) -> Result<(), Planted> {
        let (mut inside, outcome) = self.enter(Call::Stop);
        inside.on &= outcome.is_err();
        inside.deaf = inside.on;
        outcome
    }

    /// One that fails has put into the round what it owes itself.
    fn collect(&mut self, round: &mut PageSet) -> Result<(), Planted> {
        let (mut inside, outcome) = self.enter(Call::Collect);
        assert!(inside.on, "collected while off");
        round.merge(&inside.dirty);
        if outcome.is_ok() && self.way == Way::Clearing {
            inside.dirty.clear();
        }
        outcome
    }

    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), Planted> {
        let (mut inside, outcome) = self.enter(Call::Protect);
        assert!(inside.on, "protected while off");
        let first = self.layout.regions()[region].range.offset_of(range.first()).expect("in it");
        for page in first..first + range.pages() {
            if inside.dirty.regions()[region].contains(page) {
                round.regions_mut()[region].insert(page);
                if outcome.is_ok() {
                    inside.dirty.regions_mut()[region].remove(page);
                }
            }
        }
        outcome
    }

    /// Breaks D2: a union must not depend on it.
    fn owe(&mut self, _: &PageSet) {}
}
