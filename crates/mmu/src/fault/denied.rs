//! A write to a leaf that logging alone does not forbid.

use super::{Ended, Fault, Outcome, Step};
use crate::breaks::Break;
use crate::counters::Event;
use crate::embedder::{BackingWrite, Embedder};
use crate::fault::Access;
use crate::invalidation::Freshness;
use crate::slots::Slot;
use crate::sub_pages::Denial;
use crate::table::Table;
use crate::track::TrackMode;
use vellum_pte::{Format, Raw};

/// What becomes of a write to a page.
pub(super) enum Ruling {
    /// Nobody tracks or restricts it.
    Free,
    /// Hardware decides about each sub-page.
    Partial,
    /// The embedder makes it.
    Emulated,
    /// Its first byte may not be written.
    Denied(Denial),
}

impl<'s, 'm, F: Format, E: Embedder> Fault<'s, 'm, F, E> {
    /// Nothing it looks at changes as long as the fault is inside the read side.
    pub(super) fn ruling(&self, slot: &Slot) -> Ruling {
        let map = slot.map(self.gfn);
        if !map.allows(self.gpa.offset()) {
            return Ruling::Denied(Denial { gpa: self.gpa, map });
        }
        if slot.is_tracked(self.gfn, TrackMode::Write) {
            return Ruling::Emulated;
        }
        if map.is_all() {
            return Ruling::Free;
        }
        // Walks of the guest's own tables are not eligible (Intel SDM vol. 3C, 29.3.4.1).
        let by_tables = self.state.sub_pages.tables().is_some() && self.access == Access::Write;
        if by_tables { Ruling::Partial } else { Ruling::Emulated }
    }

    /// How a write ends that the tables' own entries will not let pass.
    pub(super) fn stopped(ruling: &Ruling) -> Option<Outcome> {
        match ruling {
            Ruling::Free | Ruling::Partial => None,
            Ruling::Emulated => Some(Outcome::Emulate),
            Ruling::Denied(denial) => Some(Outcome::Denied(*denial)),
        }
    }

    /// A write met a leaf that is neither liftable nor storable as a whole.
    #[cold]
    pub(super) fn at_denied(&self, table: &'s Table<F>, slot: &Slot, raw: Raw) -> Ended<'m, F, E> {
        let ruling = self.ruling(slot);
        if let Some(outcome) = Self::stopped(&ruling) {
            return Err(outcome);
        }
        if F::is_partial(raw) {
            // It is permitted here and faulted all the same: it crosses into a denied sub-page, or
            // this processor was not told of the tables, or another vCPU was faster. A writer that
            // looks at each byte is right in all three.
            return Err(Outcome::Emulate);
        }
        self.permit(table, slot, raw, &ruling)
    }

    /// Gives a denied leaf back what nobody forbids any more. **Its memory is asked for again**: the
    /// leaf does not say whether it was that.
    fn permit(
        &self,
        table: &'s Table<F>,
        slot: &Slot,
        raw: Raw,
        ruling: &Ruling,
    ) -> Ended<'m, F, E> {
        let seen = self.invalidations.sequence();
        let page = slot.guest_page(self.gfn);
        let backing = self.context.embedder.resolve(page).ok_or(Outcome::NoBacking)?;
        if backing.write == BackingWrite::Denied {
            return Err(Outcome::ReadOnly);
        }
        let index = table.index(self.gfn);
        let locked = table.lock(self.context);
        let range = table.range_of(index);
        let fresh = self.invalidations.freshness(seen, range, self.context.embedder);
        if fresh == Freshness::Stale {
            return Err(Outcome::Retry);
        }
        let step = match ruling {
            Ruling::Partial => self.open_partly(table, slot, raw),
            _ => {
                // Whether it may be opened, and by a split, is looked at again.
                let _ = table.entry(index).compare_exchange(raw, F::lift(raw));
                Step::Again
            }
        };
        drop(locked);
        Ok(step)
    }

    /// The three steps of dirtying a leaf, for one that stores pass in part.
    fn open_partly(&self, table: &Table<F>, slot: &Slot, raw: Raw) -> Step<'m, F, E> {
        let index = table.index(self.gfn);
        let early = self.context.breaks.has(Break::MarkEarly);
        if early {
            self.mark_early(slot);
        }
        match table.entry(index).compare_exchange(raw, F::permit_partly(raw)) {
            Err(_) => Step::Again,
            Ok(()) => {
                table.writable().insert(index);
                if !early {
                    self.mark(slot);
                }
                self.context.count(Event::Opened);
                Step::Done(Outcome::Mapped)
            }
        }
    }
}
