//! Taking a page's permission to be written, whoever asked for it.

use super::Table;
use crate::frame::Closed;
use vellum_pte::{Format, Gfn, Level};

impl<F: Format> Table<F> {
    /// Makes no store pass to a page until a fault has looked again who forbids it: denies its leaf,
    /// or unmaps the huge one over it. Faults are kept out (hardware is not).
    pub(crate) fn forbid(&mut self, gfn: Gfn) -> Closed {
        let table = self.lowest(gfn);
        let index = table.index(gfn);
        match table.level() {
            Level::L1 => table.entry(index).deny_leaf::<F>(Level::L1),
            _ => table.clear_if_leaf(index),
        }
    }
}
