//! How many want to hear of a page.

use super::TrackMode;
use crate::allocate::OutOfMemory;
use crate::sparse::Sparse;
use core::ops::Range;

/// Counts side by side: 2 KiB of them.
const CHUNK: usize = if cfg!(loom) { 2 } else { 1024 };

/// A count for each page and mode, mostly 0.
#[derive(Debug, Default)]
pub(crate) struct TrackCounts {
    modes: [Sparse<u16, CHUNK>; TrackMode::ALL.len()],
}

/// Why a count stayed as it was (P1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CountError {
    /// It is as high as it can be.
    TooMany,
    /// It is 0.
    NotTracked,
    /// There is no memory for it.
    OutOfMemory,
}

impl From<OutOfMemory> for CountError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl TrackCounts {
    pub(crate) fn get(&self, page: u64, mode: TrackMode) -> u16 {
        self.modes[mode as usize].get(page)
    }

    /// Whether any page of these is tracked.
    pub(crate) fn any(&self, pages: Range<u64>) -> bool {
        self.modes.iter().any(|counts| counts.any(pages.clone()))
    }

    pub(crate) fn add(&mut self, page: u64, mode: TrackMode) -> Result<(), CountError> {
        let more = self.get(page, mode).checked_add(1).ok_or(CountError::TooMany)?;
        Ok(self.modes[mode as usize].put(page, more)?)
    }

    pub(crate) fn remove(&mut self, page: u64, mode: TrackMode) -> Result<(), CountError> {
        let fewer = self.get(page, mode).checked_sub(1).ok_or(CountError::NotTracked)?;
        Ok(self.modes[mode as usize].put(page, fewer)?)
    }
}
