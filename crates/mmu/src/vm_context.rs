//! What an operation carries along: the embedder, where to count, which shoot-downs are owed, and
//! which bug is planted.

use crate::breaks::Breaks;
use crate::counters::{Event, Tally};
use crate::debts::Debts;
use crate::dirty_bits::DirtyBits;
use crate::embedder::Embedder;

/// Borrowed by every operation that changes an entry.
pub(crate) struct Context<'a, E> {
    pub(crate) embedder: &'a E,
    pub(crate) tally: &'a Tally,
    pub(crate) debts: &'a Debts,
    pub(crate) dirty_bits: DirtyBits,
    pub(crate) breaks: Breaks,
}

impl<E> Clone for Context<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Context<'_, E> {}

impl<E: Embedder> Context<'_, E> {
    #[inline]
    pub(crate) fn count(self, event: Event) {
        self.tally.count(event, 1);
    }

    #[inline]
    pub(crate) fn count_many(self, event: Event, times: u64) {
        self.tally.count(event, times);
    }

    /// Lets a planted bug's window stand open; nothing in a shipped build.
    #[allow(clippy::unused_self)]
    pub(crate) fn hold_open(self) {
        #[cfg(feature = "breaks")]
        crate::breaks::hold_open(self.embedder);
    }
}
