//! Who may run: harts enter for a turn and leave it at an instruction boundary; a pause waits
//! until nobody is inside.

use crate::machine::{DeniedStore, Ended};
use crate::sbi::{HartStatus, StartError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vellum_pte::Gpa;

/// How long a hart sleeps that has nothing to do. Nothing waits for it: a pause wakes it.
const REST: Duration = Duration::from_millis(1);

/// Where a hart is to begin, and what it finds in `a1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Start {
    pub(super) entry: Gpa,
    pub(super) opaque: u64,
}

/// What a hart does when the machine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Run {
    /// Nothing, until another hart starts it.
    Stopped,
    /// It begins anew.
    Starting(Start),
    /// It goes on.
    Started,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Paused,
    Running,
    Closing,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// Harts inside a turn.
    active: usize,
    runs: Vec<Run>,
    /// Nobody runs until the machine is resumed.
    denied: Option<DeniedStore>,
    ended: Option<Ended>,
}

impl Inner {
    fn is_running(&self) -> bool {
        self.phase == Phase::Running && self.denied.is_none() && self.ended.is_none()
    }
}

#[derive(Debug)]
pub(super) struct Gate {
    inner: Mutex<Inner>,
    /// Harts wait here for a turn.
    changed: Condvar,
    /// Whoever pauses waits here for the last hart to leave.
    quiet: Condvar,
    /// A hint to harts inside that they should leave; the mutex orders everything else.
    leave: AtomicBool,
}

/// A hart is inside, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'g> {
    gate: &'g Gate,
    hart: usize,
    /// Where to begin, if the hart is to begin anew.
    pub(super) start: Option<Start>,
}

impl Gate {
    /// Paused, all harts stopped.
    pub(super) fn new(harts: usize) -> Self {
        let runs = vec![Run::Stopped; harts];
        let inner = Inner { phase: Phase::Paused, active: 0, runs, denied: None, ended: None };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            quiet: Condvar::new(),
            leave: AtomicBool::new(true),
        }
    }

    /// Waits for a turn; `None` when there will be no more.
    pub(super) fn enter(&self, hart: usize) -> Option<Turn<'_>> {
        let may_not = |inner: &mut Inner| {
            let idle = !inner.is_running() || inner.runs[hart] == Run::Stopped;
            inner.phase != Phase::Closing && idle
        };
        let waited = self.changed.wait_while(self.inner(), may_not);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.phase == Phase::Closing {
            return None;
        }
        inner.active += 1;
        let start = match std::mem::replace(&mut inner.runs[hart], Run::Started) {
            Run::Starting(start) => Some(start),
            Run::Started | Run::Stopped => None,
        };
        Some(Turn { gate: self, hart, start })
    }

    /// Sleeps a little, unless there is something else to do.
    pub(super) fn rest(&self) {
        let rested =
            self.changed.wait_timeout_while(self.inner(), REST, |inner| inner.is_running());
        drop(rested);
    }

    /// Returns when no hart is inside, and none enters.
    pub(super) fn pause(&self) {
        self.turn_to(Phase::Paused);
        let quiet = self.quiet.wait_while(self.inner(), |inner| inner.active > 0);
        drop(quiet);
    }

    pub(super) fn resume(&self) {
        let mut inner = self.inner();
        inner.phase = Phase::Running;
        inner.denied = None;
        self.announce(&inner);
    }

    /// A hart stands at a store that is denied: all stand still until the machine is resumed. The
    /// first such store counts; another hart's is tried again with it.
    pub(super) fn deny(&self, store: DeniedStore) {
        let mut inner = self.inner();
        inner.denied.get_or_insert(store);
        self.announce(&inner);
    }

    pub(super) fn denied(&self) -> Option<DeniedStore> {
        self.inner().denied
    }

    pub(super) fn close(&self) {
        self.turn_to(Phase::Closing);
    }

    /// The machine has come to its end. The first end counts.
    pub(super) fn end(&self, ended: Ended) {
        let mut inner = self.inner();
        inner.ended.get_or_insert(ended);
        self.announce(&inner);
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        self.inner().ended
    }

    pub(super) fn is_paused(&self) -> bool {
        self.inner().phase == Phase::Paused
    }

    /// What each hart does, in order.
    pub(super) fn runs(&self) -> Vec<Run> {
        self.inner().runs.clone()
    }

    /// Makes the harts and the end what they were elsewhere. The machine is paused.
    pub(super) fn restore(&self, runs: Vec<Run>, ended: Option<Ended>) {
        let mut inner = self.inner();
        inner.runs = runs;
        inner.denied = None;
        inner.ended = ended;
    }

    pub(super) fn start_hart(&self, hart: u64, start: Start) -> Result<(), StartError> {
        let mut inner = self.inner();
        let hart = usize::try_from(hart).map_err(|_| StartError::NoSuchHart)?;
        let run = inner.runs.get_mut(hart).ok_or(StartError::NoSuchHart)?;
        if *run != Run::Stopped {
            return Err(StartError::AlreadyAvailable);
        }
        *run = Run::Starting(start);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn hart_status(&self, hart: u64) -> Option<HartStatus> {
        let hart = usize::try_from(hart).ok()?;
        Some(match self.inner().runs.get(hart)? {
            Run::Stopped => HartStatus::Stopped,
            Run::Starting(_) | Run::Started => HartStatus::Started,
        })
    }

    fn turn_to(&self, phase: Phase) {
        let mut inner = self.inner();
        inner.phase = phase;
        self.announce(&inner);
    }

    fn announce(&self, inner: &Inner) {
        self.leave.store(!inner.is_running(), Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whole between any two statements that can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Whether somebody waits for this turn to end.
    pub(super) fn is_over(&self) -> bool {
        self.gate.leave.load(Ordering::Relaxed)
    }

    /// The hart has stopped itself.
    pub(super) fn stop_hart(&self) {
        self.gate.inner().runs[self.hart] = Run::Stopped;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.gate.end(Ended::Panicked { hart: self.hart as u64 });
        }
        let mut inner = self.gate.inner();
        inner.active -= 1;
        if inner.active == 0 {
            self.gate.quiet.notify_all();
        }
    }
}
