//! Exact counts of what a clock cannot tell.
//!
//! With the feature `counters`, each vCPU counts on its own cache line and everything else on one
//! shared line; without it, counting compiles to nothing.

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A fault came in.
    Fault,
    /// A fault found nothing to do.
    Spurious,
    /// A leaf was mapped.
    Mapped,
    /// A leaf was made storable by a fault.
    Opened,
    /// A table was linked, to an absent entry or in place of a leaf.
    Linked,
    /// A read linked a parked table again: what write-protect-all costs readers where tables carry
    /// no permissions.
    Relinked,
    /// A huge leaf was replaced by a table.
    Split,
    /// A table was replaced by a huge leaf.
    Recovered,
    /// A table was settled, by a push-down or at the root.
    Settled,
    /// An entry lost its storability.
    Closed,
    /// A shoot-down was made.
    ShootDown,
    /// A table's lock was taken.
    TableLock,
}

#[cfg(feature = "counters")]
mod real {
    use super::Event;
    use crate::sync::{AtomicU64, Ordering};

    const EVENTS: usize = 12;

    /// Counts since the VM was made.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct CounterSnapshot {
        counts: [u64; EVENTS],
    }

    impl CounterSnapshot {
        /// How often `event` happened.
        #[must_use]
        pub const fn get(&self, event: Event) -> u64 {
            self.counts[event as usize]
        }

        /// How often `event` happened since `earlier`.
        #[must_use]
        pub const fn since(&self, earlier: &Self, event: Event) -> u64 {
            self.get(event) - earlier.get(event)
        }

        pub(crate) fn add(&mut self, tally: &Tally) {
            for (sum, count) in self.counts.iter_mut().zip(&tally.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
    }

    /// Who counts on a tally.
    #[derive(Debug, Default)]
    enum Counted {
        /// The one vCPU that has the seat: a load and a store do.
        #[default]
        ByOne,
        ByMany,
    }

    /// The counts of one vCPU, or of everybody else.
    #[derive(Debug, Default)]
    pub(crate) struct Tally {
        counts: [AtomicU64; EVENTS],
        counted: Counted,
    }

    impl Tally {
        /// A tally for everybody without a seat.
        pub(crate) fn shared() -> Self {
            Self { counts: Default::default(), counted: Counted::ByMany }
        }

        #[inline]
        pub(crate) fn count(&self, event: Event, times: u64) {
            let cell = &self.counts[event as usize];
            match self.counted {
                Counted::ByOne => {
                    cell.store(cell.load(Ordering::Relaxed) + times, Ordering::Relaxed);
                }
                Counted::ByMany => {
                    cell.fetch_add(times, Ordering::Relaxed);
                }
            }
        }
    }
}

#[cfg(not(feature = "counters"))]
mod real {
    use super::Event;

    #[derive(Debug, Default)]
    pub(crate) struct Tally;

    impl Tally {
        pub(crate) const fn shared() -> Self {
            Self
        }

        #[inline]
        #[allow(clippy::unused_self)]
        pub(crate) const fn count(&self, _: Event, _: u64) {}
    }
}

#[cfg(feature = "counters")]
pub use real::CounterSnapshot;
pub(crate) use real::Tally;
