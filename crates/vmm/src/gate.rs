//! Who may run: vCPUs enter for a turn, and a pause waits until none is inside.

use crate::kick;
use crate::status::{Ended, Failure, Why};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::signal::Killable;

/// How long a vCPU sleeps that has nothing to do. Nothing waits for it: a pause wakes it.
const REST: Duration = Duration::from_millis(1);
/// How long to wait before vCPUs are kicked again. It decides nothing but how soon they leave.
const ANSWER: Duration = Duration::from_micros(500);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Paused,
    Running,
    Closing,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// Which vCPUs are inside a turn.
    inside: Vec<bool>,
    ended: Option<Ended>,
    /// Whether a vCPU's thread has panicked: that vCPU does not run again.
    panicked: bool,
}

impl Inner {
    fn is_running(&self) -> bool {
        self.phase == Phase::Running && self.ended.is_none()
    }

    fn is_quiet(&self) -> bool {
        !self.inside.contains(&true)
    }
}

#[derive(Debug)]
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    /// vCPUs wait here for a turn.
    changed: Condvar,
    /// Whoever pauses waits here for the last vCPU to leave.
    quiet: Condvar,
    /// A hint to vCPUs inside that they should leave; the mutex orders everything else.
    leave: AtomicBool,
    /// Locked after `inner`. A thread that has ended stays here until it is joined, so that a kick never
    /// goes to another.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A vCPU is inside, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'g> {
    gate: &'g Gate,
    vcpu: usize,
}

impl Gate {
    /// Paused.
    pub(crate) fn new(vcpus: usize) -> Self {
        let inner = Inner {
            phase: Phase::Paused,
            inside: vec![false; vcpus],
            ended: None,
            panicked: false,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            quiet: Condvar::new(),
            leave: AtomicBool::new(true),
            threads: Mutex::default(),
        }
    }

    /// The thread of the next vCPU.
    pub(crate) fn add(&self, thread: JoinHandle<()>) {
        self.threads().push(thread);
    }

    /// Waits for a turn; `None` when there will be no more.
    pub(crate) fn enter(&self, vcpu: usize) -> Option<Turn<'_>> {
        let may_not = |inner: &mut Inner| inner.phase != Phase::Closing && !inner.is_running();
        let waited = self.changed.wait_while(self.inner(), may_not);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.phase == Phase::Closing {
            return None;
        }
        inner.inside[vcpu] = true;
        Some(Turn { gate: self, vcpu })
    }

    /// Sleeps a little, unless there is something else to do.
    pub(crate) fn rest(&self) {
        let rested =
            self.changed.wait_timeout_while(self.inner(), REST, |inner| inner.is_running());
        drop(rested);
    }

    /// Returns when no vCPU is inside, and none enters.
    pub(crate) fn pause(&self) {
        self.turn_to(Phase::Paused);
    }

    pub(crate) fn resume(&self) {
        let mut inner = self.inner();
        inner.phase = Phase::Running;
        self.announce(&inner);
    }

    /// Lets all threads end, and waits for them.
    pub(crate) fn close(&self) {
        self.turn_to(Phase::Closing);
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            // One that panicked said so in the status.
            let _ = thread.join();
        }
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.inner().ended.clone()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.inner().phase == Phase::Paused
    }

    /// Whether every vCPU has a thread yet.
    pub(crate) fn is_whole(&self) -> bool {
        !self.inner().panicked
    }

    /// Makes the end what it was elsewhere. The machine is paused.
    pub(crate) fn restore(&self, ended: Option<Ended>) {
        self.inner().ended = ended;
    }

    fn turn_to(&self, phase: Phase) {
        let mut inner = self.inner();
        inner.phase = phase;
        self.announce(&inner);
        self.let_all_leave(inner);
    }

    /// A signal that comes just before the guest is entered is lost on it. So kicks are repeated until
    /// they are answered, or the machine runs again.
    fn let_all_leave(&self, mut inner: MutexGuard<'_, Inner>) {
        while !inner.is_quiet() && !inner.is_running() {
            self.kick(&inner);
            let waited = self.quiet.wait_timeout(inner, ANSWER);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn kick(&self, inner: &Inner) {
        let threads = self.threads();
        let inside = threads.iter().zip(&inner.inside).filter(|(_, inside)| **inside);
        for (thread, _) in inside {
            // It fails only for a thread that is no more, which is not inside for long.
            let _ = thread.kill(kick::signal());
        }
    }

    /// The first end counts.
    fn end(&self, inner: &mut Inner, ended: impl Into<Ended>) {
        inner.ended.get_or_insert_with(|| ended.into());
        self.announce(inner);
    }

    fn announce(&self, inner: &Inner) {
        self.leave.store(!inner.is_running(), Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whole between any two statements that can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Whether somebody waits for this turn to end.
    pub(crate) fn is_over(&self) -> bool {
        self.gate.leave.load(Ordering::Relaxed)
    }

    /// The turn ends, and with it the machine. Whoever pauses it finds both. Returns when no vCPU is
    /// inside.
    pub(crate) fn end(self, ended: Ended) {
        let gate = self.gate;
        gate.end(&mut gate.inner(), ended);
        drop(self);
        gate.let_all_leave(gate.inner());
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inner = self.gate.inner();
        inner.inside[self.vcpu] = false;
        if inner.is_quiet() {
            self.gate.quiet.notify_all();
        }
        if std::thread::panicking() {
            inner.panicked = true;
            self.gate.end(&mut inner, Failure { vcpu: self.vcpu, at: None, why: Why::Panicked });
            self.gate.let_all_leave(inner);
        }
    }
}

#[cfg(test)]
mod tests;
