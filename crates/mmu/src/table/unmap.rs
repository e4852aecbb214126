//! Taking leaves away while faults go on.

use super::Table;
use crate::debts::Debt;
use crate::embedder::Embedder;
use crate::frame::Closed;
use crate::vm_context::Context;
use vellum_pte::{Format, GfnRange, Level};

impl<F: Format> Table<F> {
    /// Clears every leaf that has a page of `range`, and every replacement under way. Tables stay.
    ///
    /// Each entry is looked at under its table's lock, as is whatever installs one.
    pub(crate) fn unmap<E: Embedder>(
        &self,
        range: GfnRange,
        context: Context<'_, E>,
        debt: &mut Debt<'_, E>,
    ) {
        if self.level() == Level::L1 {
            let locked = self.lock(context);
            self.span(range).for_each(|index| debt.note(self.clear_leaf(index)));
            drop(locked);
            return;
        }
        for index in self.span(range) {
            let locked = self.lock(context);
            match self.child(index) {
                None => debt.note(self.clear_leaf(index)),
                Some(child) => {
                    drop(locked);
                    child.unmap(range, context, debt);
                }
            }
        }
    }

    /// Of a leaf, under its table's lock: if another has made it a table meanwhile, nothing.
    pub(super) fn clear_if_leaf(&self, index: usize) -> Closed {
        if self.child(index).is_some() { Closed::Before } else { self.clear_leaf(index) }
    }

    /// Of an entry that points to no table.
    fn clear_leaf(&self, index: usize) -> Closed {
        let there = F::is_present(self.entry(index).load());
        if there && F::is_present(self.entry(index).clear()) { Closed::Now } else { Closed::Before }
    }
}
