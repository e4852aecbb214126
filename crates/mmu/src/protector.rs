//! Making the next store to pages of a slot heard of, whatever maps them.

use crate::debts::Debt;
use crate::dirty::{below, bits};
use crate::embedder::Embedder;
use crate::mmu::State;
use crate::slots::Slot;
use crate::table::Table;
use crate::vm_context::Context;
use vellum_pte::{Format, Gfn};

/// Remembers the table that the last page was in.
pub(crate) struct Protector<'s, 'm, F: Format, E> {
    state: &'s State<F>,
    slot: &'s Slot,
    context: Context<'m, E>,
    table: Option<&'s Table<F>>,
}

impl<'s, 'm, F: Format, E: Embedder> Protector<'s, 'm, F, E> {
    pub(crate) fn new(state: &'s State<F>, slot: &'s Slot, context: Context<'m, E>) -> Self {
        Self { state, slot, context, table: None }
    }

    /// Protects the pages of `mask` in the slot's `word`-th group of 64, table by table. Of a huge
    /// leaf, all its pages with them.
    pub(crate) fn protect(&mut self, word: u64, mask: u64, debt: &mut Debt<'_, E>) {
        let first = self.slot.spec.range.first().get() + word * 64;
        let mut rest = mask;
        while rest != 0 {
            let gfn = Gfn::new(first + u64::from(rest.trailing_zeros()));
            let table = self.table_of(gfn);
            let here = rest & below(table.end_of_leaves(gfn).get() - first);
            let index = |bit| table.index(Gfn::new(first + bit as u64));
            debt.note(table.rearm_leaves(bits(here).map(index), self.context));
            rest &= !here;
        }
    }

    /// The lowest table above a page. One that is linked meanwhile holds nothing storable that was
    /// so before (see `table/split.rs`), or what a fault opened that marks it after our swap.
    fn table_of(&mut self, gfn: Gfn) -> &'s Table<F> {
        match self.table {
            Some(table) if table.covers(gfn) => table.lowest(gfn),
            _ => {
                let root = self.state.roots.of(self.slot.spec.space, gfn);
                let lowest = root.lowest(gfn);
                self.table = Some(lowest);
                lowest
            }
        }
    }
}
