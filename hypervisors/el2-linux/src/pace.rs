//! When to harvest: by what the guest has done, so that a run on a slow machine has no more harvests
//! than one on a fast one.

use crate::exit::Exit;

/// Counts what the guest does.
pub(crate) struct Pace {
    period: u64,
    done: u64,
}

impl Pace {
    /// A harvest for each `period` of what is counted: a fault is one, a change of process or a wait
    /// as much as [`OTHERS`].
    pub(crate) fn new(period: u64) -> Self {
        Self { period, done: 0 }
    }

    /// Whether it is time for a harvest, after `exit`.
    ///
    /// After a fault this CPU's TLB is empty. A harvest that waits for another exit finds translations
    /// in it that it has to shoot down; but it does not wait for ever.
    pub(crate) fn is_time(&mut self, exit: Exit) -> bool {
        let (weight, limit) = match exit {
            Exit::Fault { .. } | Exit::FaultThatMoved => (1, 2 * self.period),
            _ => (OTHERS, self.period),
        };
        self.done += weight;
        self.done >= limit
    }

    /// There was one.
    pub(crate) fn harvested(&mut self) {
        self.done = 0;
    }
}

/// How many faults an exit of another kind counts for.
const OTHERS: u64 = 16;
