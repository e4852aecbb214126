//! What a migration did, in numbers.

use crate::digest::{Difference, Digest};
use std::time::Duration;
use vellum_memory::SlotId;

/// What an attempt did, up to where it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The way of tracking, in the source's own words.
    pub method: &'static str,
    /// The guest's pages.
    pub pages: u64,
    /// The rounds, in order; the last is the one with the guest paused, if it came to that.
    pub rounds: Vec<Round>,
    /// From the call to its end.
    pub total: Duration,
    /// From pausing the guest to the destination's word that it could run it. None if it did not
    /// come to that.
    pub downtime: Option<Duration>,
    /// How long comparing the memory took. It is no part of `downtime`.
    pub verify: Option<Duration>,
    /// Collecting and protecting the first pages that were found dirty.
    pub first_harvest: Option<Duration>,
    /// Why the guest was paused when it was.
    pub stop: Option<Stop>,
    /// Whether the downtime asked for was missed: measured, or because the guest outran the wire
    /// and was stopped all the same.
    pub missed_downtime: bool,
    /// What comparing the memory of both sides said.
    pub verdict: Verdict,
    /// The digests of each region, if they were compared.
    pub digests: Vec<RegionDigest>,
}

/// One round of copying.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Pages found dirty; in the first round, all.
    pub dirty: u64,
    /// Pages sent with their content.
    pub sent: u64,
    /// Pages sent as a note that they hold zeros.
    pub zero: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// From the harvest to the last byte.
    pub time: Duration,
}

/// Why the guest was paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// What was left was expected to fit into the downtime asked for.
    Fits,
    /// Three rounds on end did not leave less than those before them.
    NoProgress,
    /// Thirty rounds were not enough.
    TooManyRounds,
}

/// What comparing the memory of both sides said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It did not come to that, or nobody asked.
    NotCompared,
    /// Every region has the same digest on both sides.
    Same,
    /// Some region differs: pages were lost.
    Different(Difference),
}

/// The digests of one region, each computed from the memory itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionDigest {
    /// Which.
    pub slot: SlotId,
    /// The source's.
    pub source: Digest,
    /// The destination's.
    pub destination: Digest,
}

impl Report {
    pub(crate) fn new(method: &'static str, pages: u64) -> Self {
        Self {
            method,
            pages,
            rounds: Vec::new(),
            total: Duration::ZERO,
            downtime: None,
            verify: None,
            first_harvest: None,
            stop: None,
            missed_downtime: false,
            verdict: Verdict::NotCompared,
            digests: Vec::new(),
        }
    }

    /// Bytes on the wire, all rounds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rounds.iter().map(|round| round.bytes).sum()
    }
}
