//! The provider of zeroed frames for second-stage tables.
//!
//! A frame that the library gives back is hidden from every walk that begins after the shoot-down
//! (its promise). A walk that began before and was preempted may still read the frame, and set A
//! and D in it by compare-exchange. So a frame waits in a **quarantine** until every such walk is
//! over, and nobody waits for it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vellum_memory::guest::PAGE_BYTES;
use vellum_mmu::Frame;
use vellum_pte::{PAGE_SIZE, Pfn};
use vm_memory::MmapRegion;

/// How many frames the arena grows by. Untouched ones cost nothing.
const CHUNK_FRAMES: u64 = 1024;
/// Arm concatenates no more root tables (Arm ARM D8.2.7).
const LONGEST_RUN: u64 = 16;
/// 64-bit entries in a frame.
const ENTRIES: usize = PAGE_BYTES / 8;

/// What the quarantine needs to know of the walks under way.
pub(crate) trait Walks {
    /// The epoch now: a walk that begins from now on is of this epoch or a later one.
    fn now(&self) -> u64;

    /// No walk under way is of an epoch before this.
    fn oldest(&self) -> u64;
}

/// Frames side by side, aligned to their size together: a power of two of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: Pfn,
    frames: u64,
}

impl Run {
    fn iter(self) -> impl Iterator<Item = Pfn> {
        (self.first.get()..self.first.get() + self.frames).map(Pfn::new)
    }
}

/// Zeroed frames, without limit unless told otherwise.
#[derive(Debug, Default)]
pub struct Frames {
    arena: Mutex<Arena>,
}

#[derive(Debug, Default)]
struct Arena {
    chunks: Vec<MmapRegion>,
    /// How many frames of the last chunk were handed out.
    used: u64,
    free: Vec<Pfn>,
    /// Runs that were roots once, and may be again.
    free_runs: Vec<Run>,
    /// How many runs of more than one frame there are, handed out or not.
    runs: usize,
    /// Runs and the epoch whose walks may not find them any more, oldest first.
    quarantine: VecDeque<(u64, Run)>,
    live: u64,
    limit: Option<u64>,
    /// How many allocations still succeed before one fails.
    until_failure: Option<u64>,
}

impl Frames {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self { arena: Mutex::new(Arena { limit, ..Arena::default() }) }
    }

    /// How many frames are handed out.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.arena().live
    }

    /// How many frames wait for walks to end.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.arena().quarantine.len()
    }

    /// From now on at most `limit` frames are handed out at a time.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.arena().limit = limit;
    }

    /// Lets `successes` more allocations succeed and the next one fail, once; `None` calls it off.
    pub fn fail_after(&self, successes: Option<u64>) {
        self.arena().until_failure = successes;
    }

    /// Whether a failure asked for by [`fail_after`](Self::fail_after) is still to come.
    #[must_use]
    pub fn failure_pending(&self) -> bool {
        self.arena().until_failure.is_some()
    }

    /// A zeroed frame that nobody else holds.
    pub(crate) fn allocate(&self, walks: &impl Walks) -> Option<Pfn> {
        let mut arena = self.arena();
        if arena.must_fail(1) {
            return None;
        }
        if arena.free.is_empty() {
            arena.end_quarantine(walks.oldest());
        }
        let frame = match arena.free.pop() {
            Some(frame) => zeroed(frame),
            None => arena.fresh()?,
        };
        arena.live += 1;
        Some(frame)
    }

    /// The first of `frames` zeroed frames side by side, aligned to their size together. `None`
    /// also where that is no power of two or more than an arena grows by.
    pub(crate) fn allocate_run(&self, frames: u32, walks: &impl Walks) -> Option<Pfn> {
        let frames = u64::from(frames);
        if frames == 1 {
            return self.allocate(walks);
        }
        let mut arena = self.arena();
        if !frames.is_power_of_two() || frames > LONGEST_RUN || arena.must_fail(frames) {
            return None;
        }
        arena.end_quarantine(walks.oldest());
        let run = match arena.free_run(frames) {
            Some(run) => run,
            None => arena.fresh_run(frames)?,
        };
        arena.live += frames;
        for frame in run.iter() {
            zeroed(frame);
        }
        Some(run.first)
    }

    /// Takes back a frame that no walk beginning from now on can find.
    pub(crate) fn release(&self, frame: Pfn, walks: &impl Walks) {
        self.release_run(frame, 1, walks);
    }

    /// Takes back what [`allocate_run`](Self::allocate_run) gave, in the same way.
    pub(crate) fn release_run(&self, first: Pfn, frames: u32, walks: &impl Walks) {
        let run = Run { first, frames: u64::from(frames) };
        let mut arena = self.arena();
        arena.live -= run.frames;
        // Read under the lock, so that the queue is in the order of its epochs.
        let hidden_from = walks.now();
        arena.quarantine.push_back((hidden_from, run));
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        // The arena is whole between any two of its statements that can panic (none can).
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arena {
    fn must_fail(&mut self, frames: u64) -> bool {
        if self.limit.is_some_and(|limit| self.live.saturating_add(frames) > limit) {
            return true;
        }
        let fails = self.until_failure == Some(0);
        self.until_failure = if fails { None } else { self.until_failure.map(|left| left - 1) };
        fails
    }

    /// Frees what was hidden before the oldest walk under way began.
    fn end_quarantine(&mut self, oldest: u64) {
        while let Some((hidden_from, run)) = self.quarantine.pop_front() {
            if hidden_from > oldest {
                self.quarantine.push_front((hidden_from, run));
                break;
            }
            match run.frames {
                1 => self.free.push(run.first),
                _ => self.free_runs.push(run),
            }
        }
    }

    /// A frame that was never handed out: the kernel zeroed it.
    fn fresh(&mut self) -> Option<Pfn> {
        if self.fresh_left() == 0 {
            self.grow()?;
        }
        let frame = self.next_fresh()?;
        self.used += 1;
        Some(frame)
    }

    /// How many frames of the last chunk were not handed out.
    fn fresh_left(&self) -> u64 {
        if self.chunks.is_empty() { 0 } else { CHUNK_FRAMES - self.used }
    }

    /// The first of those, where there are any.
    fn next_fresh(&self) -> Option<Pfn> {
        let chunk = self.chunks.last()?;
        let first = Pfn::of_address(chunk.as_ptr().expose_provenance() as u64);
        Some(Pfn::new(first.get() + self.used))
    }

    fn free_run(&mut self, frames: u64) -> Option<Run> {
        let place = self.free_runs.iter().position(|run| run.frames == frames)?;
        Some(self.free_runs.swap_remove(place))
    }

    /// A run that was never handed out. The frames that alignment skips are free ones from now on.
    fn fresh_run(&mut self, frames: u64) -> Option<Run> {
        let room = self.runs + 1 - self.free_runs.len();
        self.free_runs.try_reserve(room).ok()?;
        if self.fresh_left() < 2 * frames {
            self.skip(self.fresh_left());
            self.grow()?;
        }
        let next = self.next_fresh()?;
        self.skip(next.get().next_multiple_of(frames) - next.get());
        let run = Run { first: self.next_fresh()?, frames };
        self.used += frames;
        self.runs += 1;
        Some(run)
    }

    /// Gives frames that were never handed out to those that want one.
    fn skip(&mut self, frames: u64) {
        for _ in 0..frames {
            let fresh = self.fresh();
            fresh.into_iter().for_each(|frame| self.free.push(frame));
        }
    }

    /// Also makes room for all frames in both queues, so that taking one back never allocates.
    fn grow(&mut self) -> Option<()> {
        self.chunks.try_reserve(1).ok()?;
        let frames = (self.chunks.len() + 1) * usize::try_from(CHUNK_FRAMES).ok()?;
        self.free.try_reserve(frames - self.free.len()).ok()?;
        self.quarantine.try_reserve(frames - self.quarantine.len()).ok()?;
        let bytes = usize::try_from(CHUNK_FRAMES * PAGE_SIZE).ok()?;
        self.chunks.push(MmapRegion::new(bytes).ok()?);
        self.used = 0;
        Some(())
    }
}

/// Where the frame is in this process.
fn place(frame: Pfn) -> Option<NonNull<AtomicU64>> {
    let address = usize::try_from(frame.address()).ok()?;
    NonNull::new(std::ptr::with_exposed_provenance_mut(address))
}

/// Entry `index`, below 512, of a table frame that the caller may be in: it has just allocated it,
/// or it walks and found it as a VM's root or in a present entry of a linked table.
#[inline]
pub(crate) fn entry<'f>(frame: Pfn, index: usize) -> Option<&'f AtomicU64> {
    assert!(index < ENTRIES, "an index has nine bits");
    let address = usize::try_from(frame.address()).ok()? + 8 * index;
    let entry = NonNull::new(std::ptr::with_exposed_provenance_mut(address))?;
    // SAFETY: T2: by the caller's word the frame is one of an arena's, and it stays a table's while
    // the caller is in it: a frame taken back waits in quarantine until every walk that could have
    // found it is over, and the arena unmaps nothing while its board lives. T1: tables are only
    // ever accessed as atomics. The entry is inside the frame, and aligned since that is.
    Some(unsafe { entry.as_ref() })
}

/// The frame as the library takes it, for itself or for the run that it begins. `frame` was just
/// allocated from a [`Frames`].
pub(crate) fn for_tables(frame: Pfn) -> Option<Frame> {
    let entries = place(frame)?;
    // SAFETY: T2: 512 zeroed entries a frame, aligned to the page (a run to its size, and of one
    // mapping), valid until released and longer (the arena never unmaps while it lives, and it
    // lives as long as the library's VM does). T1: only the library and the walkers access a frame
    // that is handed out, and only as atomics.
    Some(unsafe { Frame::from_raw(frame, entries) })
}

fn zeroed(frame: Pfn) -> Pfn {
    for entry in (0..ENTRIES).filter_map(|index| entry(frame, index)) {
        entry.store(0, Ordering::Relaxed);
    }
    frame
}

#[cfg(test)]
mod tests;
