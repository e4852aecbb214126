//! The memory behind guest pages changes: a balloon, a page that migrates, a truncated file, a
//! memory failure.
//!
//! Between beginning and end the embedder changes what [`Embedder::resolve`] answers. A fault that
//! asked before the change and would install after it is caught by a sequence number: it reads the
//! number, asks, takes the table's lock, and installs only if nothing was invalidated meanwhile.
//! Whoever invalidates publishes that first and then clears entries under the same locks.

use crate::breaks::{Break, Breaks};
use crate::debts::Takes;
use crate::embedder::Embedder;
use crate::lock::SpinLock;
use crate::mmu::Mmu;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange};

/// What is being invalidated in one VM.
#[derive(Debug)]
pub(crate) struct Invalidations {
    active: AtomicUsize,
    ended: AtomicU64,
    ranges: SpinLock<Ranges>,
    breaks: Breaks,
}

/// How many active ranges are told apart.
const APART: usize = 8;

/// The active ranges: each by itself, and the union of those that there was no place for.
#[derive(Debug, Default)]
struct Ranges {
    apart: [Option<GfnRange>; APART],
    rest: Option<(Gfn, Gfn)>,
    in_rest: usize,
}

impl Ranges {
    fn add(&mut self, range: GfnRange) {
        if let Some(place) = self.apart.iter_mut().find(|place| place.is_none()) {
            *place = Some(range);
            return;
        }
        let (first, end) = self.rest.unwrap_or((range.first(), range.end()));
        self.rest = Some((first.min(range.first()), end.max(range.end())));
        self.in_rest += 1;
    }

    /// One that was added; of equal ones any.
    fn remove(&mut self, range: GfnRange) {
        if let Some(place) = self.apart.iter_mut().find(|place| **place == Some(range)) {
            *place = None;
            return;
        }
        self.in_rest = self.in_rest.saturating_sub(1);
        if self.in_rest == 0 {
            self.rest = None;
        }
    }

    fn overlap(&self, range: GfnRange) -> bool {
        let rest = self.rest.is_some_and(|(first, end)| first < range.end() && range.first() < end);
        rest || self.apart.iter().flatten().any(|active| active.overlaps(range))
    }
}

/// How many invalidations had ended when a fault asked for its backing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sequence(u64);

/// Whether a backing that was resolved may be installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freshness {
    /// It is what the embedder would answer now.
    Fresh,
    /// It may have changed: ask again.
    Stale,
}

impl Invalidations {
    pub(crate) fn new(breaks: Breaks) -> Self {
        Self {
            active: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            ranges: SpinLock::new(Ranges::default()),
            breaks,
        }
    }

    /// To be read before the embedder is asked.
    pub(crate) fn sequence(&self) -> Sequence {
        // Acquire: pairs with the release in `end`: the embedder's change is seen.
        Sequence(self.ended.load(Ordering::Acquire))
    }

    /// Whether what was resolved for `range` since `seen` may be installed. Asked under the lock of
    /// the table that it goes to.
    pub(crate) fn freshness<E: Embedder>(
        &self,
        seen: Sequence,
        range: GfnRange,
        embedder: &E,
    ) -> Freshness {
        if self.breaks.has(Break::TrustBacking) {
            return Freshness::Fresh;
        }
        // First whether one is active, then whether one has ended: an end writes in the other
        // order. Acquire: pairs with the release in `end`.
        let blocked = self.active.load(Ordering::Acquire) != 0 && self.overlaps(range, embedder);
        if blocked || self.sequence() != seen { Freshness::Stale } else { Freshness::Fresh }
    }

    /// A slot goes or moves: what was resolved of it before, and is not installed yet, is stale.
    pub(crate) fn slot_changes(&self) {
        self.ended.fetch_add(1, Ordering::AcqRel);
    }

    fn begin<E: Embedder>(&self, range: GfnRange, embedder: &E) {
        let mut ranges = self.ranges.lock(embedder);
        ranges.add(range);
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    fn end<E: Embedder>(&self, range: GfnRange, embedder: &E) {
        let mut ranges = self.ranges.lock(embedder);
        // Release: the embedder's change lies before. The number first: see `freshness`.
        self.ended.fetch_add(1, Ordering::AcqRel);
        self.active.fetch_sub(1, Ordering::AcqRel);
        ranges.remove(range);
        if self.breaks.has(Break::EndForAll) {
            ranges.apart = [None; APART];
        }
    }

    fn overlaps<E: Embedder>(&self, range: GfnRange, embedder: &E) -> bool {
        self.ranges.lock(embedder).overlap(range)
    }
}

/// The memory behind some pages is about to change. Until this is dropped, a fault there ends as
/// [`Outcome::Retry`](crate::Outcome::Retry).
#[must_use = "the change is made while this lives"]
pub struct Invalidation<'m, F: Format, E: Embedder> {
    mmu: &'m Mmu<F, E>,
    range: GfnRange,
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Takes the mappings of `range` away, whatever slots are there, and keeps them away until what
    /// is returned is dropped. On return no vCPU reaches the old memory: the embedder may change
    /// what is behind the pages, and what [`Embedder::resolve`] answers, and then ends the
    /// invalidation. It cannot fail, and several may be under way (seed: `mmu_invalidate_range_start`).
    ///
    /// The dirty log stays as it is. An embedder's own accesses to the memory, those of
    /// [`Embedder::write`] among them, are its own to keep away.
    pub fn invalidate(&self, space: AddressSpace, range: GfnRange) -> Invalidation<'_, F, E> {
        let whole = range;
        self.invalidations.begin(range, &self.embedder);
        // The locks of the tables order the rest: whoever installs after our look at its table sees
        // `active`, and we see what it installed before.
        let mut debt = self.debts.raise_for(Takes::Mappings, self.context());
        let state = self.enter();
        if let Some(range) = state.in_reach(space, range) {
            for root in state.roots.over(space, range) {
                root.unmap(range, self.context(), &mut debt, &mut |gfn| {
                    self.credit(&state, space, gfn)
                });
            }
        }
        drop(state);
        drop(debt);
        Invalidation { mmu: self, range: whole }
    }
}

impl<F: Format, E: Embedder> Drop for Invalidation<'_, F, E> {
    fn drop(&mut self) {
        self.mmu.invalidations.end(self.range, &self.mmu.embedder);
    }
}
