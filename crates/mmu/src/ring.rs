//! Dirty rings: each vCPU says in order which pages it made dirty, and stops when nobody listens.
//!
//! ```text
//!   reset            next            produced
//!     | harvested,     | dirty          | free
//!     | not reset      |                |
//! ```
//!
//! The vCPU alone moves `produced`. A consumer moves `next`: it copies an entry out and marks it as
//! harvested. A reset moves `reset`: it protects the pages of harvested entries again and frees those.
//! All three run freely in 32 bits. The entries themselves may lie in memory that others write: **an
//! index never depends on what an entry says**, and what it says is bounds-checked.
//!
//! A write that finds no room, and one that no vCPU makes, is marked in the slot's bitmap: nothing is
//! ever lost for want of a place (D1).

mod reset;

pub use reset::{Again, RingPage};

use crate::allocate::{OutOfMemory, try_slice};
use crate::breaks::{Break, Breaks};
use crate::embedder::Embedder;
use crate::lock::{SpinGuard, SpinLock};
use crate::sync::{AtomicU32, AtomicU64, CachePadded, Ordering};
use alloc::boxed::Box;
use core::ops::ControlFlow;
use vellum_pte::{AddressSpace, SlotId};

/// The entry names a page.
const DIRTY: u32 = 1 << 0;
/// It has been copied out.
const HARVESTED: u32 = 1 << 1;

/// One entry, laid out like `struct kvm_dirty_gfn` (linux/kvm.h).
#[derive(Debug, Default)]
#[repr(C)]
struct Entry {
    /// 0, then [`DIRTY`], then [`HARVESTED`].
    flags: AtomicU32,
    slot: AtomicU32,
    page: AtomicU64,
}

/// How large each vCPU's ring is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSize {
    entries: u32,
    soft_limit: u32,
}

/// Why a ring cannot have a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RingSizeError {
    /// It is not a power of two.
    #[error("{0} entries are not a power of two")]
    NotAPowerOfTwo(u32),
    /// It leaves no room beside the reserve.
    #[error("{entries} entries are no more than the reserve of {reserve}")]
    TooSmall {
        /// The size asked for.
        entries: u32,
        /// Entries that are kept for what a vCPU still logs when it should stop.
        reserve: u32,
    },
    /// It is more than [`RingSize::MOST`].
    #[error("{0} entries are more than 65536")]
    TooLarge(u32),
}

impl RingSize {
    /// No ring has more entries (seed: `KVM_DIRTY_RING_MAX_ENTRIES`).
    pub const MOST: u32 = 65_536;
    /// Entries kept for faults between two looks at the ring (seed: `KVM_DIRTY_RING_RSVD_ENTRIES`).
    const RESERVE: u32 = 64;
    /// The same where hardware logs pages by itself: a page of entries more.
    pub(crate) const RESERVE_WITH_PML: u32 = Self::RESERVE + 512;

    /// A power of two of entries, of which a reserve is kept: 64, and as many as hardware may log
    /// before it is asked for them (512 with Intel's PML, else 0).
    ///
    /// # Errors
    /// [`RingSizeError`].
    pub const fn new(entries: u32, buffered: u32) -> Result<Self, RingSizeError> {
        let reserve = Self::RESERVE.saturating_add(buffered);
        match entries {
            _ if !entries.is_power_of_two() => Err(RingSizeError::NotAPowerOfTwo(entries)),
            _ if entries > Self::MOST => Err(RingSizeError::TooLarge(entries)),
            _ if entries <= reserve => Err(RingSizeError::TooSmall { entries, reserve }),
            _ => Ok(Self { entries, soft_limit: entries - reserve }),
        }
    }

    /// Entries that are kept for what is logged when the vCPU should have stopped.
    pub(crate) const fn reserve(self) -> u32 {
        self.entries - self.soft_limit
    }

    /// Of so many entries, whatever their number: for a test that wants a full ring at once.
    #[cfg(loom)]
    #[must_use]
    pub const fn tiny(entries: u32, soft_limit: u32) -> Self {
        Self { entries, soft_limit }
    }
}

/// A vCPU's ring is full up to its soft limit: the vCPU stays out of the guest until somebody has
/// harvested and reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the dirty ring is full")]
pub struct RingFull;

/// There was no room for an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom;

/// One vCPU's ring.
#[derive(Debug)]
pub(crate) struct DirtyRing {
    entries: Box<[Entry]>,
    soft_limit: u32,
    /// How many were ever written; by the vCPU alone.
    produced: CachePadded<AtomicU32>,
    /// How many were ever freed; under the consumers' lock.
    reset: CachePadded<AtomicU32>,
    consumed: SpinLock<Consumed>,
    breaks: Breaks,
}

/// Where consumers are.
#[derive(Debug)]
pub(crate) struct Consumed {
    /// The next to harvest.
    next: u32,
}

/// What an entry says, whoever wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Said {
    slot: u32,
    page: u64,
}

impl Said {
    /// The slot, if there can be one of that number: its space is in the upper half.
    pub(crate) fn slot(self) -> SlotId {
        #[allow(clippy::cast_possible_truncation)]
        SlotId(self.slot as u16)
    }

    pub(crate) const fn page(self) -> u64 {
        self.page
    }
}

impl DirtyRing {
    pub(crate) fn new(size: RingSize, breaks: Breaks) -> Result<Self, OutOfMemory> {
        Ok(Self {
            entries: try_slice(size.entries as usize, Entry::default)?,
            soft_limit: size.soft_limit,
            produced: CachePadded::default(),
            reset: CachePadded::default(),
            consumed: SpinLock::new(Consumed { next: 0 }),
            breaks,
        })
    }

    /// Adds a page, by the vCPU whose ring this is.
    #[inline]
    pub(crate) fn push(&self, space: AddressSpace, slot: SlotId, page: u64) -> Result<(), NoRoom> {
        let produced = self.produced.0.load(Ordering::Relaxed);
        if self.used() >= self.size() && !self.breaks.has(Break::OverrunRing) {
            return Err(NoRoom);
        }
        let entry = self.entry(produced);
        if self.breaks.has(Break::FlagEarly) {
            entry.flags.store(DIRTY, Ordering::Release);
        }
        entry.slot.store(u32::from(slot.0) | u32::from(space.0) << 16, Ordering::Relaxed);
        entry.page.store(page, Ordering::Relaxed);
        // Release: who finds the flag finds the page, and the entry that was opened before.
        entry.flags.store(DIRTY, Ordering::Release);
        // Release: a reset that counts this entry finds its flags.
        self.produced.0.store(produced.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Whether the vCPU has to stay out of the guest.
    #[inline]
    pub(crate) fn is_soft_full(&self) -> bool {
        self.used() >= self.soft_limit
    }

    /// Entries that are not free, as the vCPU sees it.
    #[inline]
    fn used(&self) -> u32 {
        // Acquire: pairs with the release of a reset: what it read of an entry lies before.
        let reset = self.reset.0.load(Ordering::Acquire);
        self.produced.0.load(Ordering::Relaxed).wrapping_sub(reset)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn size(&self) -> u32 {
        self.entries.len() as u32
    }

    #[inline]
    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize % self.entries.len()]
    }

    /// Keeps other consumers out.
    pub(crate) fn consume<E: Embedder>(&self, embedder: &E) -> SpinGuard<'_, Consumed> {
        self.consumed.lock(embedder)
    }

    /// Hands the next entry to `page` and then marks it as harvested: should `page` panic, it is
    /// harvested again. Says whether there was one.
    pub(crate) fn harvest(
        &self,
        consumed: &mut SpinGuard<'_, Consumed>,
        page: impl FnOnce(Said),
    ) -> ControlFlow<()> {
        let entry = self.entry(consumed.next);
        // Acquire: pairs with the release in `push`.
        let flags = entry.flags.load(Ordering::Acquire);
        if flags & (DIRTY | HARVESTED) != DIRTY || self.is_past_the_end(consumed.next) {
            return ControlFlow::Break(());
        }
        page(entry.said());
        // Release: it was read before.
        entry.flags.store(HARVESTED, Ordering::Release);
        consumed.next = consumed.next.wrapping_add(1);
        ControlFlow::Continue(())
    }

    /// Whether nothing was ever written there, whatever it says.
    fn is_past_the_end(&self, index: u32) -> bool {
        let produced = self.produced.0.load(Ordering::Acquire);
        produced.wrapping_sub(index).wrapping_sub(1) >= self.size()
    }

    /// Frees the oldest entry, if it has been harvested. Its page has to be protected again.
    pub(crate) fn reset(&self, consumed: &mut SpinGuard<'_, Consumed>) -> Option<Said> {
        let reset = self.reset.0.load(Ordering::Relaxed);
        let entry = self.entry(reset);
        let harvested = entry.flags.load(Ordering::Acquire) & HARVESTED != 0
            || self.breaks.has(Break::ResetUnharvested);
        if !harvested || self.is_past_the_end(reset) {
            return None;
        }
        let said = entry.said();
        entry.flags.store(0, Ordering::Release);
        // Release: pairs with the acquire in `used`.
        self.reset.0.store(reset.wrapping_add(1), Ordering::Release);
        if consumed.next == reset {
            // Somebody beside us has marked it.
            consumed.next = reset.wrapping_add(1);
        }
        Some(said)
    }
}

impl Entry {
    fn said(&self) -> Said {
        Said { slot: self.slot.load(Ordering::Relaxed), page: self.page.load(Ordering::Relaxed) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom, feature = "breaks"))]
mod loom_tests;
