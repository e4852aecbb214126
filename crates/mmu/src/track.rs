//! Page tracking: some pages are emulated, so that somebody hears of each write.
//!
//! A count a page says how many want to hear. While it is above 0 no leaf of the page is storable:
//! each store faults, ends as [`Outcome::Emulate`](crate::Outcome::Emulate) and is made by the
//! embedder through [`GuestWriter`](crate::GuestWriter), which tells the [listeners](WriteListener).
//!
//! A count changes with faults and writers kept out, as slots do. So no fault that looked before
//! installs after, and no writer that began before is still under way on return. `docs/tracking.md`
//! has the whole story.

mod counts;
mod listeners;
mod registration;

pub(crate) use counts::TrackCounts;
pub(crate) use listeners::Listeners;
pub use listeners::{Call, RemovedRegion, WriteListener, Written};
pub use registration::{ListenError, Registration, Unregister};

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::debts::{Debt, Takes};
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use crate::sync::Ordering;
use counts::CountError;
use vellum_pte::{AddressSpace, Format, Gfn};

/// What of a page is tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TrackMode {
    /// Writes.
    Write,
}

impl TrackMode {
    /// Each mode.
    pub(crate) const ALL: [Self; 1] = [Self::Write];
}

/// Bits of a shadow page's role that tell apart who shadows one guest page: 3 of level, 1 of PAE, 2
/// of quadrant, 3 of access, and one each of NX, CR0.WP, SMEP and SMAP without WP, and SMM (seed:
/// the review of "the framework of guest page tracking").
const SHADOW_ROLE_BITS: u32 = 14;

/// How often shadow paging inside of a hypervisor may track one page: once for each role. Counts have
/// room for as many others.
pub const MAX_SHADOW_USERS: u16 = 1 << SHADOW_ROLE_BITS;
const _: () = assert!(SHADOW_ROLE_BITS < u16::BITS, "roles leave half of a count to others");

/// Why tracking stays off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnableTrackingError {
    /// The VM's memory is encrypted: nobody can emulate its writes.
    #[error("the memory of a confidential VM cannot be tracked")]
    Confidential,
    /// The caller is in a slot change itself: it would wait for its own end.
    #[error("called from inside of a slot change")]
    InsideSlotChange,
}

/// Why a page's count stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrackError {
    /// Tracking has not been enabled.
    #[error("page tracking is off")]
    Off,
    /// No memslot has the page.
    #[error("no memslot at page {0}")]
    NoSlot(Gfn),
    /// It is tracked 65,535 times.
    #[error("page {0} is tracked 65535 times already")]
    TooMany(Gfn),
    /// It is not tracked.
    #[error("page {0} is not tracked")]
    NotTracked(Gfn),
    /// No memory for the count.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Turns page tracking on, for whoever tracks without listening: shadow paging inside of a
    /// hypervisor. A [listener](Self::listen) turns it on by itself. It takes no memory: each slot,
    /// there or to come, allocates around the first page of it that is tracked. It never turns off.
    ///
    /// # Errors
    /// [`EnableTrackingError`].
    pub fn enable_tracking(&self) -> Result<(), EnableTrackingError> {
        if self.config.memory == crate::mmu::GuestMemory::Confidential {
            return Err(EnableTrackingError::Confidential);
        }
        if self.read_side.is_excluded_by(self.embedder.caller()) {
            return Err(EnableTrackingError::InsideSlotChange);
        }
        let _no_slot_changes = self.enter();
        // Release: pairs with the acquire of whoever finds it on.
        self.tracking.store(1, Ordering::Release);
        Ok(())
    }

    /// Tracks a page once more. On return no store of a vCPU reaches it, each ends as
    /// [`Outcome::Emulate`](crate::Outcome::Emulate), and no [`GuestWriter`](crate::GuestWriter) that
    /// began before is still under way. The page is no part of a huge leaf any more.
    ///
    /// # Errors
    /// [`TrackError`]; nothing has changed.
    pub fn track(&self, space: AddressSpace, gfn: Gfn, mode: TrackMode) -> Result<(), TrackError> {
        let mut debt = self.debts.raise_for(Takes::Mappings, self.context());
        if self.breaks.has(Break::ForbidEarly) {
            self.forbid_early(space, core::iter::once(gfn), &mut debt);
            return self.change_count(space, gfn, |counts, page| counts.add(page, mode)).map(drop);
        }
        let mut state = self.change_count(space, gfn, |counts, page| counts.add(page, mode))?;
        state.forbid(space, gfn, &mut debt);
        drop(state);
        drop(debt);
        Ok(())
    }

    /// Tracks a page once less. When nobody tracks it, the next write makes it writable again, and
    /// huge leaves may come back ([`recover_huge`](Self::recover_huge)).
    ///
    /// # Errors
    /// [`TrackError`]; nothing has changed.
    pub fn untrack(
        &self,
        space: AddressSpace,
        gfn: Gfn,
        mode: TrackMode,
    ) -> Result<(), TrackError> {
        self.change_count(space, gfn, |counts, page| counts.remove(page, mode)).map(drop)
    }

    /// Whether a page is tracked. No page is that no memslot has, and none while tracking is off.
    pub fn is_tracked(&self, space: AddressSpace, gfn: Gfn, mode: TrackMode) -> bool {
        let state = self.enter();
        state.slots.find(space, gfn).is_some_and(|slot| slot.is_tracked(gfn, mode))
    }

    fn tracking_is_on(&self) -> bool {
        // Acquire: pairs with the release of whoever turned it on.
        self.tracking.load(Ordering::Acquire) != 0
    }

    /// Changes a count with faults and writers kept out, which they still are on return.
    fn change_count(
        &self,
        space: AddressSpace,
        gfn: Gfn,
        change: impl FnOnce(&mut TrackCounts, u64) -> Result<(), CountError>,
    ) -> Result<crate::read_side::WriteGuard<'_, State<F>>, TrackError> {
        if !self.tracking_is_on() {
            return Err(TrackError::Off);
        }
        let mut state = self.read_side.exclude(&self.embedder);
        let slot = state.slots.find_mut(space, gfn).ok_or(TrackError::NoSlot(gfn))?;
        let page = slot.page(gfn);
        match change(&mut slot.tracked, page) {
            Ok(()) => Ok(state),
            Err(CountError::TooMany) => Err(TrackError::TooMany(gfn)),
            Err(CountError::NotTracked) => Err(TrackError::NotTracked(gfn)),
            Err(CountError::OutOfMemory) => Err(OutOfMemory.into()),
        }
    }

    /// The deliberate bug [`Break::ForbidEarly`]: permission goes before anything says why.
    #[cold]
    pub(crate) fn forbid_early(
        &self,
        space: AddressSpace,
        pages: impl Iterator<Item = Gfn>,
        debt: &mut Debt<'_, E>,
    ) {
        let mut state = self.read_side.exclude(&self.embedder);
        for gfn in pages {
            if state.in_reach_of_one(space, gfn) {
                state.forbid(space, gfn, debt);
            }
        }
        drop(state);
        self.context().hold_open();
    }
}

impl<F: Format> State<F> {
    /// Takes all permission to be written from a page in reach, with faults kept out.
    pub(crate) fn forbid<E: Embedder>(
        &mut self,
        space: AddressSpace,
        gfn: Gfn,
        debt: &mut Debt<'_, E>,
    ) {
        debt.note(self.roots.of_mut(space, gfn).forbid(gfn));
    }

    fn in_reach_of_one(&self, space: AddressSpace, gfn: Gfn) -> bool {
        self.roots.has(space) && gfn < self.limit
    }
}
