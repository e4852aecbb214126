//! The indicator of write-protect-all: one atomic word for the VM.

use crate::embedder::Embedder;
use crate::lock::{SpinGuard, SpinLock};
use crate::sync::{AtomicU64, Ordering};

const ENABLED: u64 = 1 << 63;

/// The enable bit and, below it, the generation, which grows each time it is enabled.
#[derive(Debug)]
pub(crate) struct Protection {
    indicator: AtomicU64,
    turn: SpinLock<()>,
}

/// Whether write-protect-all is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProtectAll {
    On,
    Off,
}

/// Proof that no other write-protect-all is under way.
pub(crate) type Turn<'a> = SpinGuard<'a, ()>;

impl Protection {
    pub(crate) fn new() -> Self {
        Self { indicator: AtomicU64::new(0), turn: SpinLock::new(()) }
    }

    pub(crate) fn turn<E: Embedder>(&self, embedder: &E) -> Turn<'_> {
        self.turn.lock(embedder)
    }

    /// Turns it on and begins a generation, which it returns.
    pub(crate) fn advance(&self, _: &Turn<'_>) -> u64 {
        let generation = (self.indicator.load(Ordering::Relaxed) & !ENABLED) + 1;
        // Release and acquire here are belt and braces: the root's lock orders this for all who
        // read it under a table's lock (docs/ordering.md, "indicator").
        self.indicator.store(generation | ENABLED, Ordering::Release);
        generation
    }

    /// Turns it off. The generation stays, and closed entries open lazily.
    pub(crate) fn disable(&self, _: &Turn<'_>) {
        let generation = self.indicator.load(Ordering::Relaxed) & !ENABLED;
        self.indicator.store(generation, Ordering::Release);
    }

    #[inline]
    pub(crate) fn state(&self) -> ProtectAll {
        match self.indicator.load(Ordering::Acquire) & ENABLED {
            0 => ProtectAll::Off,
            _ => ProtectAll::On,
        }
    }
}
