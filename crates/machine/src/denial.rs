//! What becomes of a store that a map of sub-pages forbids: a monitor that wants to hear of it, and
//! not to stop the machine for it, decides.

use crate::emulation::EmulatedStore;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use vellum_mmu::Denial;
use vellum_pte::Gpa;

/// A store that has not happened, and why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForbiddenStore<'a> {
    /// The instruction that would make it.
    pub by: EmulatedStore,
    /// Where it begins. What is forbidden may begin later, or in the next page.
    pub gpa: Gpa,
    /// What it would put there.
    pub bytes: &'a [u8],
    /// The first byte that is forbidden, and the map that says so.
    pub denial: Denial,
}

/// What a judge says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It does not happen: it ends as [`BusError::Denied`](crate::bus::BusError::Denied).
    Stop,
    /// It happens, and listeners hear of it; the map stays.
    LetThrough,
}

/// Judges stores that maps forbid.
pub trait DenialJudge: Send + Sync {
    /// Says what becomes of `store`. Called by the hart's own thread, by several at the same time. An
    /// atomic is judged once more each time another hart was faster.
    fn judge(&self, store: &ForbiddenStore<'_>) -> Verdict;
}

/// Who judges, if anybody.
#[derive(Default)]
pub(crate) struct Bench(RwLock<Option<Arc<dyn DenialJudge>>>);

impl Bench {
    pub(crate) fn seat(&self, judge: Option<Arc<dyn DenialJudge>>) {
        // A whole value whoever panicked: it is only ever replaced.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = judge;
    }

    /// The judge is asked with no lock held: it may take its time.
    pub(crate) fn judge(&self) -> Option<Arc<dyn DenialJudge>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").finish_non_exhaustive()
    }
}
