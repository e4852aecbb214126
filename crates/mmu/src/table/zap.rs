//! Taking mappings away, while faults are kept out.

use super::Table;
use crate::embedder::Embedder;
use crate::frame::TableFrame;
use crate::once_box::OnceBox;
use alloc::boxed::Box;
use vellum_pte::{GfnRange, TableFormat};

/// Tables that were unlinked and still have their frames: hardware may be walking them until the
/// shoot-down. A list through the tables themselves, so that it needs no memory.
#[derive(Debug)]
#[must_use = "frames go back after the shoot-down, by `release`"]
pub(crate) struct Graveyard<F> {
    first: Option<Box<Table<F>>>,
}

impl<F: TableFormat> Graveyard<F> {
    pub(crate) const fn new() -> Self {
        Self { first: None }
    }

    fn bury(&mut self, mut table: Box<Table<F>>) {
        table.next = self.first.take();
        self.first = Some(table);
    }

    /// Gives all frames back. The shoot-down has been made (F1).
    pub(crate) fn release<E: Embedder>(mut self, embedder: &E) {
        while let Some(mut table) = self.first.take() {
            self.first = table.next.take();
            table.bury_children(&mut self);
            embedder.release_frame(table.into_frame());
        }
    }
}

impl<F: TableFormat> Table<F> {
    /// Unmaps `range` and unlinks the tables that have nothing else. `&mut` says that faults are
    /// kept out and that entries change only by hardware.
    pub(crate) fn zap(&mut self, range: GfnRange, graveyard: &mut Graveyard<F>) {
        for index in self.span(range) {
            if self.is_inside(index, range) || self.zap_below(index, range, graveyard) {
                self.unlink(index, graveyard);
            }
        }
    }

    /// Unmaps `range` in the table below entry `index`, which has pages of others as well. Says
    /// whether there is a table that holds nothing any more.
    fn zap_below(&mut self, index: usize, range: GfnRange, graveyard: &mut Graveyard<F>) -> bool {
        let child = self.children.get_mut(index).and_then(OnceBox::get_mut);
        child.is_some_and(|child| {
            child.zap(range, graveyard);
            child.is_empty()
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        (0..TableFrame::<F>::ENTRIES).all(|index| !F::is_present(self.entry(index).load()))
    }

    pub(super) fn unlink(&mut self, index: usize, graveyard: &mut Graveyard<F>) {
        self.entry(index).clear();
        if let Some(child) = self.take_child(index) {
            graveyard.bury(child);
        }
    }

    /// Whether all pages of entry `index` are in `range`.
    fn is_inside(&self, index: usize, range: GfnRange) -> bool {
        let first = self.base_of(index);
        first >= range.first() && first.get() + self.pages_an_entry() <= range.end().get()
    }

    fn take_child(&mut self, index: usize) -> Option<Box<Self>> {
        self.children.get_mut(index)?.take()
    }

    /// All tables below, for a VM that goes away: no hardware walks them any more.
    pub(crate) fn bury_children(&mut self, graveyard: &mut Graveyard<F>) {
        for child in self.children.iter_mut().filter_map(OnceBox::take) {
            graveyard.bury(child);
        }
    }
}
