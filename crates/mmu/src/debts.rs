//! Shoot-downs that somebody still has to make.

use crate::breaks::{Break, Breaks};
use crate::counters::Event;
use crate::embedder::{Embedder, Scope};
use crate::frame::Closed;
use crate::sync::{AtomicUsize, Ordering};
use crate::vm_context::Context;
use vellum_pte::{Replace, TableFormat};

/// How many operations of one VM have taken, or may yet take, permissions away without having
/// shot down.
#[derive(Debug)]
pub(crate) struct Debts {
    outstanding: AtomicUsize,
    /// Those of them that take mappings away.
    unmapping: AtomicUsize,
    /// Resets of rings that have taken entries back, or may yet, and have still to write-protect all.
    closing: AtomicUsize,
}

/// What an operation takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    /// Permissions, and mappings whose entries stay frozen until the shoot-down.
    Permissions,
    /// Mappings too: their entries are absent from the first moment on.
    Mappings,
}

/// A shoot-down that this operation may have to make: raised before its first entry changes, paid
/// when it is dropped, with no lock held (F1). It is paid if an entry changed **or another debt is
/// outstanding**: an entry found read-only says nothing about the TLBs then (F2).
#[must_use = "dropping it pays it: do so with no lock held and before handing anything over"]
pub(crate) struct Debt<'a, E: Embedder> {
    debts: &'a Debts,
    context: Context<'a, E>,
    takes: Takes,
    changed: Closed,
}

impl Debts {
    pub(crate) fn new() -> Self {
        Self {
            outstanding: AtomicUsize::new(0),
            unmapping: AtomicUsize::new(0),
            closing: AtomicUsize::new(0),
        }
    }

    pub(crate) fn raise<'a, E: Embedder>(&'a self, context: Context<'a, E>) -> Debt<'a, E> {
        self.raise_for(Takes::Permissions, context)
    }

    pub(crate) fn raise_for<'a, E: Embedder>(
        &'a self,
        takes: Takes,
        context: Context<'a, E>,
    ) -> Debt<'a, E> {
        // The raise comes before the release of the entry's compare-exchange, so whoever sees the
        // entry closed sees this too.
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        if takes == Takes::Mappings {
            self.unmapping.fetch_add(1, Ordering::AcqRel);
        }
        Debt { debts: self, context, takes, changed: Closed::Before }
    }

    /// Whether somebody has yet to shoot down for an entry that was read before this.
    pub(crate) fn is_any_outstanding(&self, breaks: Breaks) -> bool {
        // Acquire: pairs with the release below, after the shoot-down.
        !breaks.has(Break::IgnoreDebt) && self.outstanding.load(Ordering::Acquire) != 0
    }

    /// Before the first entry of a ring is taken back whose page a write-protect-all will protect.
    pub(crate) fn raise_closing(&self) {
        self.closing.fetch_add(1, Ordering::AcqRel);
    }

    /// After it has.
    pub(crate) fn lower_closing(&self) {
        // Release: the write-protect-all lies before.
        self.closing.fetch_sub(1, Ordering::Release);
    }

    /// Whether more than `own` have pages that still have to be protected. Asked after the last ring
    /// was looked at: whose lock was held by one who has taken entries back shows that one's raise.
    pub(crate) fn are_more_closing(&self, own: usize, breaks: Breaks) -> bool {
        // Acquire: pairs with the release in `lower_closing`.
        !breaks.has(Break::IgnoreDebt) && self.closing.load(Ordering::Acquire) > own
    }

    /// Whether something that an absent entry mapped may still be in a TLB. Where hardware asks for
    /// break-before-make nothing may be installed there until then: it might be of another size.
    /// Asked under the lock of the entry's table, as the entry is cleared under it or with faults
    /// kept out: who sees it absent sees the debt.
    #[inline]
    pub(crate) fn is_unmapping<F: TableFormat>(&self, breaks: Breaks) -> bool {
        matches!(F::REPLACE, Replace::BreakFirst)
        && !breaks.has(Break::MapUnbroken)
            // Acquire: pairs with the release below, after the shoot-down.
            && self.unmapping.load(Ordering::Acquire) != 0
    }
}

impl<E: Embedder> Debt<'_, E> {
    /// Notes what became of an entry.
    #[inline]
    pub(crate) fn note(&mut self, closed: Closed) {
        if closed == Closed::Now {
            self.changed = Closed::Now;
        }
    }

    /// Pays whatever was noted.
    pub(crate) fn pay(mut self) {
        self.changed = Closed::Now;
    }

    /// Lowers it unpaid, under whatever lock: for an operation that has taken nothing away and
    /// promises nothing.
    pub(crate) fn forgive(self) {
        debug_assert!(self.changed == Closed::Before, "what was taken away is shot down");
        debug_assert!(self.takes == Takes::Permissions, "what was unmapped is shot down");
        self.debts.outstanding.fetch_sub(1, Ordering::Release);
        core::mem::forget(self);
    }

    fn is_owed(&self) -> bool {
        if self.context.breaks.has(Break::SkipFlush) {
            return false;
        }
        self.changed == Closed::Now || self.another_is_outstanding()
    }

    /// Read after the last entry was looked at.
    pub(crate) fn another_is_outstanding(&self) -> bool {
        // Acquire: pairs with the release below, after the other's shoot-down.
        !self.context.breaks.has(Break::IgnoreDebt)
            && self.debts.outstanding.load(Ordering::Acquire) > 1
    }
}

impl<E: Embedder> Drop for Debt<'_, E> {
    fn drop(&mut self) {
        if self.is_owed() {
            self.context.count(Event::ShootDown);
            self.context.embedder.shoot_down(Scope::All);
        }
        // Release: the shoot-down lies before.
        if self.takes == Takes::Mappings {
            self.debts.unmapping.fetch_sub(1, Ordering::Release);
        }
        self.debts.outstanding.fetch_sub(1, Ordering::Release);
    }
}
