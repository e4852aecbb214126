//! Stopping a migration from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A token that stops a migration: keep a clone, hand one in. Cancelling before the hand-over is a
/// failure like any other, and the source's guest runs on. After the hand-over was sent it only
/// ends the wait for the answer.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels. It cannot be taken back.
    pub fn cancel(&self) {
        // Release, with the acquire below: who cancels may have left a reason in memory.
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        // Acquire, with the release above.
        self.0.load(Ordering::Acquire)
    }
}

/// A flag that a signal handler sets.
impl From<Arc<AtomicBool>> for Cancel {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}
