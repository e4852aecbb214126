//! Who was used since it was last asked.

use super::Table;
use crate::debts::Debt;
use crate::embedder::Embedder;
use crate::frame::Closed;
use crate::vm_context::Context;
use vellum_pte::{Format, GfnRange};

/// How a leaf forgets that it was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HowToAge {
    /// By its A bit.
    ClearAccessed,
    /// By going away.
    Unmap,
}

impl<F: Format> Table<F> {
    /// Makes every leaf that has a page of `range` unused, and tells `young` of those that were
    /// used.
    pub(crate) fn age<E: Embedder>(
        &self,
        range: GfnRange,
        how: HowToAge,
        context: Context<'_, E>,
        debt: &mut Debt<'_, E>,
        young: &mut impl FnMut(GfnRange),
    ) {
        self.for_each(range, &mut |table, span| {
            for index in span {
                if table.age_entry(index, how, context) == Closed::Now {
                    debt.note(Closed::Now);
                    table.range_of(index).intersection(range).into_iter().for_each(&mut *young);
                }
            }
        });
    }

    fn age_entry<E: Embedder>(
        &self,
        index: usize,
        how: HowToAge,
        context: Context<'_, E>,
    ) -> Closed {
        match how {
            HowToAge::ClearAccessed => self.entry(index).take_accessed::<F>(self.level()),
            HowToAge::Unmap if F::is_leaf(self.entry(index).load(), self.level()) => {
                let _locked = self.lock(context);
                self.clear_if_leaf(index)
            }
            HowToAge::Unmap => Closed::Before,
        }
    }
}
