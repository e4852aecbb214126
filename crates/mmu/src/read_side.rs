//! The read side: faults run in parallel, changes to slots exclude them.
//!
//! A big-reader lock. Entering costs a vCPU one store to a cache line of its own, because the
//! writer makes up for the missing barrier with [`Embedder::barrier_all`]; where there is none,
//! entering fences. Those who have no seat of their own (a harvest, a device) share a count.
//!
//! Whatever was reached under a read guard is borrowed from it, and only a write guard gives
//! `&mut`: that a table outlives its readers (T2) is checked by the compiler.
#![allow(unsafe_code)]

use crate::allocate::{OutOfMemory, try_box};
use crate::breaks::{Break, Breaks};
use crate::counters::Tally;
use crate::embedder::{CallerId, Embedder};
use crate::once_box::OnceBox;
use crate::ring::{DirtyRing, RingSize};
use crate::sync::{
    AtomicU32, AtomicU64, AtomicUsize, CachePadded, ConstPtr, MutPtr, Ordering, UnsafeCell, fence,
    fence_after_rmw,
};
use core::ops::{Deref, DerefMut};

const OUTSIDE: u32 = 0;
const INSIDE: u32 = 1;

#[cfg(not(loom))]
const SEATS_A_ROW: usize = 16;
#[cfg(loom)]
const SEATS_A_ROW: usize = 2;

/// One vCPU's place: written by that vCPU alone while it holds it.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    inside: AtomicU32,
    taken: AtomicU32,
    /// Stays when the vCPU leaves: what is in it has still to be harvested.
    ring: OnceBox<DirtyRing>,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
struct Row {
    seats: [CachePadded<Seat>; SEATS_A_ROW],
    next: OnceBox<Row>,
}

impl Row {
    fn new() -> Self {
        Self { seats: core::array::from_fn(|_| CachePadded::default()), next: OnceBox::new() }
    }
}

/// How a reader's store becomes visible before its next load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    /// The writer runs a barrier on every CPU.
    WriterPays,
    /// The reader fences.
    ReaderFences,
}

/// `T`, shared by readers who run in parallel or held by one writer.
pub(crate) struct ReadSide<T> {
    writer: CachePadded<AtomicU32>,
    unseated: CachePadded<AtomicUsize>,
    /// The writer's [`CallerId`]; 0 while there is none, or none that is known.
    holder: AtomicU64,
    entry: Entry,
    rows: Row,
    value: UnsafeCell<T>,
    breaks: Breaks,
}

// SAFETY: readers share `&T` and a writer has it alone, as with any reader-writer lock.
unsafe impl<T: Send + Sync> Sync for ReadSide<T> {}
// SAFETY: it owns its value.
unsafe impl<T: Send> Send for ReadSide<T> {}

impl<T> ReadSide<T> {
    pub(crate) fn new<E: Embedder>(value: T, embedder: &E, breaks: Breaks) -> Self {
        Self {
            writer: CachePadded(AtomicU32::new(OUTSIDE)),
            unseated: CachePadded(AtomicUsize::new(0)),
            holder: AtomicU64::new(0),
            entry: if embedder.has_barrier_all() { Entry::WriterPays } else { Entry::ReaderFences },
            rows: Row::new(),
            value: UnsafeCell::new(value),
            breaks,
        }
    }

    /// A free seat, or a new one.
    pub(crate) fn take_seat(&self) -> Result<&Seat, OutOfMemory> {
        let mut row = &self.rows;
        loop {
            if let Some(seat) = row.seats.iter().map(|padded| &padded.0).find(|seat| seat.claim()) {
                return Ok(seat);
            }
            row = match row.next.get() {
                Some(next) => next,
                None => {
                    row.next.set(try_box(Row::new()).map_err(|(error, _)| error)?).unwrap_or_else(
                        |_| row.next.get().expect("another was faster, so it is there"),
                    )
                }
            };
        }
    }

    /// Enters as the vCPU that holds `seat`.
    #[inline]
    pub(crate) fn enter<'a, E: Embedder>(
        &'a self,
        seat: &'a Seat,
        embedder: &E,
    ) -> ReadGuard<'a, T> {
        loop {
            seat.inside.store(INSIDE, Ordering::Relaxed);
            self.store_before_load();
            // Acquire: pairs with the release that ends a write.
            if self.writer.0.load(Ordering::Acquire) == OUTSIDE {
                return ReadGuard { value: self.value.get(), place: Place::Seat(seat) };
            }
            seat.leave();
            self.wait_for_writer(embedder);
        }
    }

    /// Enters without a seat.
    pub(crate) fn enter_unseated<E: Embedder>(&self, embedder: &E) -> ReadGuard<'_, T> {
        loop {
            self.unseated.0.fetch_add(1, Ordering::Acquire);
            fence_after_rmw();
            if self.writer.0.load(Ordering::Acquire) == OUTSIDE {
                return ReadGuard {
                    value: self.value.get(),
                    place: Place::Count(&self.unseated.0),
                };
            }
            // Release: what was read lies before the leaving.
            self.unseated.0.fetch_sub(1, Ordering::Release);
            self.wait_for_writer(embedder);
        }
    }

    /// Keeps readers out, and waits until those inside have left.
    pub(crate) fn exclude<E: Embedder>(&self, embedder: &E) -> WriteGuard<'_, T> {
        while self
            .writer
            .0
            .compare_exchange(OUTSIDE, INSIDE, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            embedder.relax();
        }
        let holder = embedder.caller().map_or(0, |CallerId(number)| number.get());
        self.holder.store(holder, Ordering::Relaxed);
        if !self.breaks.has(Break::FreeEarly) {
            self.wait_for_readers(embedder);
        }
        WriteGuard { side: self, value: self.value.get_mut() }
    }

    /// Whether it is the caller that keeps readers out. (Relaxed: who does has written it itself.)
    pub(crate) fn is_excluded_by(&self, caller: Option<CallerId>) -> bool {
        caller.is_some_and(|CallerId(number)| self.holder.load(Ordering::Relaxed) == number.get())
    }

    /// The rings of all vCPUs that are or were.
    pub(crate) fn rings(&self) -> impl Iterator<Item = &DirtyRing> {
        self.seats().filter_map(|seat| seat.ring.get())
    }

    /// All tallies: the seats', whoever holds them now.
    #[cfg(feature = "counters")]
    pub(crate) fn tallies(&self) -> impl Iterator<Item = &Tally> {
        self.seats().map(|seat| &seat.tally)
    }

    fn seats(&self) -> impl Iterator<Item = &Seat> {
        core::iter::successors(Some(&self.rows), |row| row.next.get())
            .flat_map(|row| row.seats.iter().map(|padded| &padded.0))
    }

    #[inline]
    fn store_before_load(&self) {
        match self.entry {
            // The writer's `barrier_all` is the other half: see docs/ordering.md, "read side".
            Entry::WriterPays => {
                core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst)
            }
            Entry::ReaderFences => fence(Ordering::SeqCst),
        }
    }

    fn wait_for_readers<E: Embedder>(&self, embedder: &E) {
        if self.entry == Entry::WriterPays {
            embedder.barrier_all();
        }
        // For those who fence: `barrier_all` need not reach this CPU, nor theirs.
        fence(Ordering::SeqCst);
        // Acquire: what a reader did lies before our changes.
        for seat in self.seats() {
            while seat.inside.load(Ordering::Acquire) == INSIDE {
                embedder.relax();
            }
        }
        while self.unseated.0.load(Ordering::Acquire) != 0 {
            embedder.relax();
        }
    }

    #[cold]
    fn wait_for_writer<E: Embedder>(&self, embedder: &E) {
        while self.writer.0.load(Ordering::Relaxed) != OUTSIDE {
            embedder.relax();
        }
    }
}

impl Seat {
    fn claim(&self) -> bool {
        self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Its ring, if the VM has rings.
    #[inline]
    pub(crate) fn ring(&self) -> Option<&DirtyRing> {
        self.ring.get()
    }

    /// Makes its ring, if whoever had it before has not. The seat is held.
    pub(crate) fn make_ring(&self, size: RingSize, breaks: Breaks) -> Result<(), OutOfMemory> {
        if self.ring.get().is_none() {
            let ring = try_box(DirtyRing::new(size, breaks)?).map_err(|(error, _)| error)?;
            // Nobody else fills it.
            let _ = self.ring.set(ring);
        }
        Ok(())
    }

    /// Gives the seat back; the next vCPU may have it.
    pub(crate) fn vacate(&self) {
        self.taken.store(0, Ordering::Release);
    }

    fn leave(&self) {
        // Release: pairs with the writer's acquire.
        self.inside.store(OUTSIDE, Ordering::Release);
    }
}

enum Place<'a> {
    Seat(&'a Seat),
    Count(&'a AtomicUsize),
}

/// Proof of being inside: the value cannot change but by its own atomics.
pub(crate) struct ReadGuard<'a, T> {
    value: ConstPtr<T>,
    place: Place<'a>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: a writer waits until this guard has gone (T2).
        unsafe { self.value.deref() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        match self.place {
            Place::Seat(seat) => seat.leave(),
            // Release: pairs with the writer's acquire.
            Place::Count(count) => {
                count.fetch_sub(1, Ordering::Release);
            }
        }
    }
}

/// Proof of being alone.
pub(crate) struct WriteGuard<'a, T> {
    side: &'a ReadSide<T>,
    value: MutPtr<T>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: readers are out and stay out (T2).
        unsafe { self.value.deref() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: readers are out and stay out (T2).
        unsafe { self.value.deref() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        self.side.holder.store(0, Ordering::Relaxed);
        // Release: pairs with the acquire of whoever enters next.
        self.side.writer.0.store(OUTSIDE, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
