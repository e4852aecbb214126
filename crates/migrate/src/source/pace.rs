//! When to pause the guest.

use crate::report::{Round, Stop};
use std::time::Duration;

/// After so many rounds on end that left no less than those before, there is no point in another.
const MOST_STUCK: u32 = 3;

/// More rounds than this are not made.
const MOST_ROUNDS: u32 = 30;

/// How fast this connection is, and how the rounds shrink.
#[derive(Debug, Default)]
pub(super) struct Pace {
    time: Duration,
    sent: u64,
    zero: u64,
    rounds: u32,
    fewest: Option<u64>,
    stuck: u32,
}

impl Pace {
    /// Learns from a finished round.
    pub(super) fn learn(&mut self, round: &Round) {
        self.time += round.time;
        self.sent += round.sent;
        self.zero += round.zero;
        self.rounds += 1;
    }

    /// Whether to pause the guest now that `dirty` pages are left, and why.
    pub(super) fn stop(&mut self, dirty: u64, downtime: Duration) -> Option<Stop> {
        self.note_progress(dirty);
        if self.expected(dirty) <= downtime {
            Some(Stop::Fits)
        } else if self.stuck >= MOST_STUCK {
            Some(Stop::NoProgress)
        } else if self.rounds >= MOST_ROUNDS {
            Some(Stop::TooManyRounds)
        } else {
            None
        }
    }

    /// Progress is a tenth less than the least before: a guest that outruns the wire wavers around
    /// its working set, and its lucky rounds must not count.
    fn note_progress(&mut self, dirty: u64) {
        let better = self.fewest.is_none_or(|fewest| dirty < fewest - fewest / 10);
        if better {
            self.fewest = Some(dirty);
            self.stuck = 0;
        } else {
            self.stuck += 1;
        }
    }

    /// How long `dirty` pages take at the rate of this connection so far. Pages of zeros are
    /// nearly free, so all time is put down to the others while there are any.
    fn expected(&self, dirty: u64) -> Duration {
        let pages = if self.sent > 0 { self.sent } else { self.zero.max(1) };
        let nanos = self.time.as_nanos() * u128::from(dirty) / u128::from(pages);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests;
