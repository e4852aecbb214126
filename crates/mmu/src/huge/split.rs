//! Splitting ahead of the first write.

use super::{AT_A_TIME, rest};
use crate::allocate::OutOfMemory;
use crate::batch::Batch;
use crate::debts::Debt;
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use crate::slots::{NoSlot, Slot};
use crate::table::{Replaced, Split, Table};
use core::ops::{ControlFlow, Range};
use vellum_pte::{AddressSpace, Format, Gfn, Level, SlotId};

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
                root.visit(range, &mut |table, span| stretch.split(slot, (table, span), &mut debt))
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
}

/// One stretch of splitting.
struct Stretch<'a, F: Format, E: Embedder> {
    mmu: &'a Mmu<F, E>,
    most: u64,
    done: u64,
    frozen: Batch<Replaced<F>, AT_A_TIME>,
    /// The first page that may still be huge: frozen in leaves that are, or changed meanwhile.
    again: Option<Gfn>,
}

impl<F: Format, E: Embedder> Stretch<'_, F, E> {
    fn split(
        &mut self,
        slot: &Slot,
        (table, span): (&Table<F>, Range<usize>),
        debt: &mut Debt<'_, E>,
    ) -> ControlFlow<(Gfn, Pause)> {
        let huge = |index: &usize| F::is_leaf(table.entry(*index).load(), table.level());
        for index in span.filter(|_| table.level() > Level::L1).filter(huge) {
            let first = table.base_of(index);
            if self.done == self.most {
                return ControlFlow::Break((first, Pause::Full));
            }
            let raw = table.entry(index).load();
            slot.prepare(first);
            match table.split(index, raw, debt, self.mmu.context()) {
                Ok(Split::Done) => self.done += 1,
                Ok(Split::Frozen(replaced)) => {
                    self.done += 1;
                    self.frozen.push(replaced);
                    let still_huge = table.level() > Level::L2;
                    self.again = self.again.or(still_huge.then_some(first));
                }
                Ok(Split::Changed) => self.again = self.again.or(Some(first)),
                Err(error) => return ControlFlow::Break((first, Pause::OutOfMemory(error))),
            }
        }
        ControlFlow::Continue(())
    }
}
