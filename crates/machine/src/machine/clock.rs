//! The guest's time: it stands still while the machine is paused, and moves with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    /// Guest time less host time since `origin`, modulo 2^64. Changed while no hart runs.
    offset: AtomicU64,
    /// Guest time when the machine was paused.
    paused_at: AtomicU64,
}

impl Clock {
    /// Paused at 0.
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), offset: AtomicU64::new(0), paused_at: AtomicU64::new(0) }
    }

    /// Nanoseconds of running so far, while running.
    pub(super) fn now(&self) -> u64 {
        self.host().wrapping_add(self.offset.load(Ordering::Relaxed))
    }

    /// The same while paused.
    pub(super) fn paused_at(&self) -> u64 {
        self.paused_at.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self) {
        self.set(self.now());
    }

    /// It will go on from `ns`.
    pub(super) fn set(&self, ns: u64) {
        self.paused_at.store(ns, Ordering::Relaxed);
    }

    pub(super) fn resume(&self) {
        self.offset.store(self.paused_at().wrapping_sub(self.host()), Ordering::Relaxed);
    }

    fn host(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
