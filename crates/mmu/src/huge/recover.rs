//! Getting huge leaves back: zap, flush, install.

use super::{AT_A_TIME, rest};
use crate::batch::Batch;
use crate::breaks::Break;
use crate::embedder::{BackingWrite, Embedder};
use crate::invalidation::{Freshness, Sequence};
use crate::mmu::{Mmu, State};
use crate::slots::{NoSlot, Slot};
use crate::table::{Buried, Graveyard, Recoverable, Table};
use core::ops::{ControlFlow, Range};
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Level, SlotId, Write};

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Gives a slot that is not logged its huge leaves back, where tables map what a huge leaf could.
    /// Returns how many there are more. Needs no memory. [`stop_log`](Self::stop_log) does so.
    ///
    /// # Errors
    /// [`NoSlot`].
    pub fn recover_huge(&self, id: SlotId) -> Result<u64, NoSlot> {
        Ok(self.recover_level(id, Level::L3)? + self.recover_level(id, Level::L2)?)
    }

    fn recover_level(&self, id: SlotId, level: Level) -> Result<u64, NoSlot> {
        let (mut recovered, mut from) = (0, Gfn::new(0));
        loop {
            let seen = self.invalidations.sequence();
            let (found, space) = {
                let state = self.enter();
                let slot = state.slots.named(id)?;
                (self.recoverable(&state, slot, from, level), slot.spec.space)
            };
            let Some(last) = found.last() else { return Ok(recovered) };
            from = Gfn::new(last.first.get() + Table::<F>::pages_at(level));
            recovered += self.recover(id, space, found, seen);
        }
    }

    /// The next tables of a slot that huge leaves at `level` could replace, from the page `from` on.
    fn recoverable(
        &self,
        state: &State<F>,
        slot: &Slot,
        from: Gfn,
        level: Level,
    ) -> Batch<Recoverable, AT_A_TIME> {
        let mut found = Batch::new();
        let Some(range) = rest(slot.spec.range, from).filter(|_| slot.log.is_none()) else {
            return found;
        };
        let _ = state.roots.over(slot.spec.space, range).try_for_each(|root| {
            root.visit(range, &mut |table, span| match table.level() == level {
                true => self.find_in(table, span, slot, &mut found),
                false => ControlFlow::Continue(()),
            })
        });
        found
    }

    fn find_in(
        &self,
        table: &Table<F>,
        span: Range<usize>,
        slot: &Slot,
        found: &mut Batch<Recoverable, AT_A_TIME>,
    ) -> ControlFlow<()> {
        for index in span.filter(|index| !table.maps_nothing(*index)) {
            if found.is_full() {
                return ControlFlow::Break(());
            }
            let place = self.candidate(table.level(), table.base_of(index), slot);
            place.into_iter().for_each(|place| found.push(place));
        }
        ControlFlow::Continue(())
    }

    /// Whether one leaf at `level` could map what is from `first` on.
    fn candidate(&self, level: Level, first: Gfn, slot: &Slot) -> Option<Recoverable> {
        if !slot.spec.range.contains(first) {
            return None;
        }
        let backing = self.embedder.resolve(slot.guest_page(first))?;
        let fits = slot.largest_leaf::<F>(first, backing, self.breaks) >= level;
        let writable = backing.write == BackingWrite::Allowed;
        (fits && writable).then_some(Recoverable { first, level, frame: backing.frame })
    }

    /// Zap, flush, install. If the slot has gone or moved since `seen`, whatever is zapped in its
    /// place is mapped again by faults.
    fn recover(
        &self,
        id: SlotId,
        space: AddressSpace,
        found: Batch<Recoverable, AT_A_TIME>,
        seen: Sequence,
    ) -> u64 {
        let debt = self.debts.raise(self.context());
        let mut graveyard = Graveyard::new();
        let mut buried = Batch::<Buried, AT_A_TIME>::new();
        let mut state = self.read_side.exclude(&self.embedder);
        if state.slots.named(id).is_ok_and(|slot| slot.log.is_none()) {
            for place in found.take_all() {
                let range = GfnRange::new(place.first, 1);
                let root = range.and_then(|range| state.roots.over_mut(space, range).next());
                let gone = root.and_then(|root| root.bury(place, &mut graveyard));
                gone.into_iter().for_each(|gone| buried.push(gone));
            }
        }
        drop(state);
        debt.pay();
        let state = self.enter();
        let installed = buried.take_all().filter_map(|buried| {
            let root = state.roots.of(space, buried.place().first);
            buried.install(root, self.context(), || self.leaf_again(&state, space, buried, seen))
        });
        let installed = installed.count() as u64;
        drop(state);
        graveyard.release(&self.embedder);
        installed
    }

    /// What a huge leaf may be that comes back, or none where it may not.
    fn leaf_again(
        &self,
        state: &State<F>,
        space: AddressSpace,
        buried: Buried,
        seen: Sequence,
    ) -> Option<Write> {
        if self.breaks.has(Break::RecoverBlindly) {
            return Some(Write::Storable);
        }
        let Recoverable { first, level, .. } = buried.place();
        let range = GfnRange::new(first, Table::<F>::pages_at(level))?;
        let slot = state.slots.find(space, first)?;
        let fresh = self.invalidations.freshness(seen, range, &self.embedder);
        let may_come = fresh == Freshness::Fresh && !slot.restricts(range);
        let write = slot.permission(range, BackingWrite::Allowed, self.protection.state());
        may_come.then_some(write)
    }
}
