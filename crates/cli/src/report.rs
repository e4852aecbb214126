//! What a migration came to, for a program (`--json`) and for a person.

mod table;

pub(crate) use table::{Width, columns, render, wrapped};

use crate::args::Runs;
use crate::event::Ended;
use serde::Serialize;
use std::time::Duration;

/// One migration, from start to verdict. Times are nanoseconds; what was not reached is null.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Source and destination hold the same bytes, and the guest ran on.
    pub(crate) verified: bool,
    /// One sentence: why it is verified, or why not.
    pub(crate) reason: String,
    /// How the guest ended, if it did before it was seen to run on.
    pub(crate) ended: Option<Ended>,
    /// The guest.
    pub(crate) guest: String,
    /// How its writes were tracked.
    pub(crate) method: Option<String>,
    /// Why they were tracked so.
    pub(crate) method_reason: Option<String>,
    /// What runs it: `software` or `kvm`.
    pub(crate) machine: Option<Runs>,
    /// The format of its second-stage entries, where they are ours.
    pub(crate) format: Option<&'static str>,
    /// Pages of 4 KiB it has.
    pub(crate) pages: u64,
    /// Its virtual CPUs.
    pub(crate) vcpus: u32,
    /// What the guest's randomness was seeded with.
    pub(crate) seed: u64,
    /// The rounds, the last one while the guest was paused.
    pub(crate) rounds: Vec<Round>,
    /// From its beginning to its end, verification included.
    pub(crate) total_ns: Option<u64>,
    /// Paused to ready on the other side, verification apart.
    pub(crate) downtime_ns: Option<u64>,
    /// Why the guest was paused when it was.
    pub(crate) stop: Option<Stop>,
    /// The downtime asked for.
    pub(crate) downtime_asked_ns: u64,
    /// Taking both digests.
    pub(crate) verify_ns: Option<u64>,
    /// How long the first harvest of the log took.
    pub(crate) first_harvest_ns: Option<u64>,
    /// Instructions that the guest retired at the destination before it was called running, where
    /// they are counted.
    pub(crate) ran_on: Option<u64>,
    /// How often its virtual CPUs left the guest there until then, where that is counted.
    pub(crate) ran_on_exits: Option<u64>,
    /// Passes that each of its virtual CPUs had finished there by then.
    pub(crate) ran_on_passes: Option<u64>,
}

/// Why the guest was paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stop {
    /// What was left was expected to fit into the downtime asked for.
    Fits,
    /// Three rounds on end left no less than those before them.
    NoProgress,
    /// Thirty rounds were not enough.
    TooManyRounds,
}

/// One round of copying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Round {
    /// Pages found dirty.
    pub(crate) dirty: u64,
    /// Pages sent with their content.
    pub(crate) sent: u64,
    /// Pages sent as a word because they were all zero.
    pub(crate) zero: u64,
    /// Bytes on the wire.
    pub(crate) bytes: u64,
    /// How long it took.
    pub(crate) ns: u64,
}

impl Round {
    fn time(&self) -> Duration {
        Duration::from_nanos(self.ns)
    }
}

impl Report {
    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| {
            // A struct of numbers and strings always serializes; say so if it ever does not.
            format!("{{\"verified\":false,\"reason\":\"the report cannot be written: {error}\"}}")
        })
    }
}

#[cfg(test)]
mod tests;
