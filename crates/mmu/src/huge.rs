//! Huge leaves: splitting them ahead of the first write, and getting them back.

use crate::allocate::OutOfMemory;
use crate::batch::Batch;
use crate::debts::Debt;
use crate::embedder::{BackingWrite, Embedder};
use crate::invalidation::{Freshness, Sequence};
use crate::mmu::{Mmu, State};
use crate::slots::{NoSlot, Slot};
use crate::table::{Buried, Graveyard, Recoverable, Replaced, Split, Table};
use core::ops::{ControlFlow, Range};
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Level, SlotId, Write};

/// How many leaves are split, and how many tables recovered, before others get a turn.
const AT_A_TIME: usize = 32;

/// Why a slot's huge leaves were not all split. Those that were stay so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SplitError {
    /// There is no such slot.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// No memory for a table.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// What a slot's splitting has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SplitReport {
    /// How many tables it took.
    pub tables: u64,
    /// What is left.
    pub left: HugeLeaves,
}

/// Whether a slot has huge leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugeLeaves {
    /// None that was there when it was looked at.
    None,
    /// Some: the first write to each will split it.
    Some,
}

/// A stretch of splitting that ends early.
enum Pause {
    /// The batch is full, or the memory that may be used is.
    Full,
    OutOfMemory(OutOfMemory),
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Splits the huge leaves of a slot into 4 KiB, so that no write has to. Uses at most `frames`
    /// table frames. Goes on in stretches, so that faults and slot changes are not kept waiting; may
    /// be called again, with whatever memory there is then.
    ///
    /// # Errors
    /// [`SplitError`].
    pub fn split_huge(&self, id: SlotId, frames: u64) -> Result<SplitReport, SplitError> {
        let mut report = SplitReport { tables: 0, left: HugeLeaves::Some };
        let mut from = Gfn::new(0);
        loop {
            let stretch = (frames - report.tables).min(AT_A_TIME as u64);
            let (tables, next) = self.split_stretch(id, from, stretch)?;
            report.tables += tables;
            match next {
                Some(next) if report.tables < frames => from = next,
                Some(_) => return Ok(report),
                None => return Ok(SplitReport { left: HugeLeaves::None, ..report }),
            }
        }
    }

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

    /// Puts a table that was made from a huge leaf in its place, after the shoot-down.
    pub(crate) fn put_in_place(
        &self,
        debt: Debt<'_, E>,
        space: AddressSpace,
        replaced: Replaced<F>,
    ) {
        debt.pay();
        self.thaw(&self.enter(), space, replaced);
    }

    fn thaw(&self, state: &State<F>, space: AddressSpace, replaced: Replaced<F>) {
        let root = state.roots.of(space, replaced.first());
        replaced.thaw(root, self.context());
    }

    /// Splits up to `most` leaves from `from` on. Returns how many it split, and where to go on.
    fn split_stretch(
        &self,
        id: SlotId,
        from: Gfn,
        most: u64,
    ) -> Result<(u64, Option<Gfn>), SplitError> {
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let slot = state.slots.named(id)?;
        let (space, range) = (slot.spec.space, rest(slot.spec.range, from));
        let mut stretch = Stretch { mmu: self, most, done: 0, frozen: Batch::new(), again: None };
        let paused = range.map_or(ControlFlow::Continue(()), |range| {
            state.roots.over(space, range).try_for_each(|root| {
                root.visit(range, &mut |table, span| stretch.split(table, span, &mut debt))
            })
        });
        let (done, again) = (stretch.done, stretch.again);
        drop(state);
        drop(debt);
        let state = self.enter();
        for replaced in stretch.frozen.take_all() {
            self.thaw(&state, space, replaced);
        }
        match paused {
            ControlFlow::Break((_, Pause::OutOfMemory(error))) => Err(error.into()),
            ControlFlow::Break((at, Pause::Full)) => Ok((done, again.or(Some(at)))),
            ControlFlow::Continue(()) => Ok((done, again)),
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
        let fits = slot.largest_leaf::<F>(first, backing) >= level;
        let writable = backing.write == BackingWrite::Allowed;
        (fits && writable).then_some(Recoverable { first, level, frame: backing.frame })
    }

    /// Zap, flush, install.
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
        let unlogged = |slot: &Slot| slot.log.is_none() && slot.spec.space == space;
        if state.slots.named(id).is_ok_and(unlogged) {
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
        let Recoverable { first, level, .. } = buried.place();
        let range = GfnRange::new(first, Table::<F>::pages_at(level))?;
        let slot = state.slots.find(space, first)?;
        let fresh = self.invalidations.freshness(seen, range, &self.embedder);
        let write = slot.permission(BackingWrite::Allowed, self.protection.state());
        (fresh == Freshness::Fresh).then_some(write)
    }
}

/// The part of a slot from `from` on.
fn rest(range: GfnRange, from: Gfn) -> Option<GfnRange> {
    let first = range.first().max(from);
    GfnRange::new(first, range.end().checked_sub(first)?).filter(|rest| rest.pages() > 0)
}

/// One stretch of splitting.
struct Stretch<'a, F: Format, E: Embedder> {
    mmu: &'a Mmu<F, E>,
    most: u64,
    done: u64,
    frozen: Batch<Replaced<F>, AT_A_TIME>,
    /// The first page that was frozen in leaves that are still huge.
    again: Option<Gfn>,
}

impl<F: Format, E: Embedder> Stretch<'_, F, E> {
    fn split(
        &mut self,
        table: &Table<F>,
        span: Range<usize>,
        debt: &mut Debt<'_, E>,
    ) -> ControlFlow<(Gfn, Pause)> {
        let huge = |index: &usize| F::is_leaf(table.entry(*index).load(), table.level());
        for index in span.filter(|_| table.level() > Level::L1).filter(huge) {
            let first = table.base_of(index);
            if self.done == self.most {
                return ControlFlow::Break((first, Pause::Full));
            }
            let raw = table.entry(index).load();
            match table.split(index, raw, debt, self.mmu.context()) {
                Ok(Split::Done) => self.done += 1,
                Ok(Split::Frozen(replaced)) => {
                    self.done += 1;
                    self.frozen.push(replaced);
                    let still_huge = table.level() > Level::L2;
                    self.again = self.again.or(still_huge.then_some(first));
                }
                Ok(Split::Changed) => {}
                Err(error) => return ControlFlow::Break((first, Pause::OutOfMemory(error))),
            }
        }
        ControlFlow::Continue(())
    }
}
