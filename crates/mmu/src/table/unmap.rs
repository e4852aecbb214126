//! Taking leaves away while faults go on.

use super::Table;
use crate::debts::Debt;
use crate::embedder::Embedder;
use crate::frame::Closed;
use crate::vm_context::Context;
use vellum_pte::{Format, Gfn, GfnRange, Level};

impl<F: Format> Table<F> {
    /// Clears every leaf that has a page of `range`, and every replacement under way. Tables stay.
    ///
    /// Each entry is looked at under its table's lock, as is whatever installs one.
    pub(crate) fn unmap<E: Embedder>(
        &self,
        range: GfnRange,
        context: Context<'_, E>,
        debt: &mut Debt<'_, E>,
        credit: &mut impl FnMut(Gfn),
    ) {
        if self.level() == Level::L1 {
            let locked = self.lock(context);
            self.span(range).for_each(|index| debt.note(self.clear_last(index, credit)));
            drop(locked);
            return;
        }
        for index in self.span(range) {
            let locked = self.lock(context);
            match self.child(index) {
                None => debt.note(self.clear_leaf(index)),
                Some(child) => {
                    drop(locked);
                    child.unmap(range, context, debt, credit);
                }
            }
        }
    }

    /// Of a leaf, under its table's lock: if another has made it a table meanwhile, nothing.
    pub(super) fn clear_if_leaf(&self, index: usize) -> Closed {
        if self.child(index).is_some() { Closed::Before } else { self.clear_leaf(index) }
    }

    /// Of an entry of the last level. **`credit` hears of each page whose leaf had D** when it went.
    pub(super) fn clear_last(&self, index: usize, credit: &mut impl FnMut(Gfn)) -> Closed {
        if !F::is_present(self.entry(index).load()) {
            return Closed::Before;
        }
        let gone = self.entry(index).clear();
        if F::is_dirty(gone) {
            credit(self.base_of(index));
        }
        if F::is_present(gone) { Closed::Now } else { Closed::Before }
    }

    /// Of an entry that points to no table.
    fn clear_leaf(&self, index: usize) -> Closed {
        let there = F::is_present(self.entry(index).load());
        if there && F::is_present(self.entry(index).clear()) { Closed::Now } else { Closed::Before }
    }
}
