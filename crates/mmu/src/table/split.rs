//! Splitting a huge leaf: a table of smaller leaves takes its place.
//!
//! The new leaves are never storable, whatever the huge one was: who protects the pages meanwhile
//! and does not find the new table yet then misses nothing. So splitting a storable leaf takes
//! permission away, and is a debt that is **raised before the entry changes**.

use super::Table;
use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::counters::Event;
use crate::debts::Debt;
use crate::embedder::Embedder;
use crate::frame::{Closed, TableFrame};
use crate::vm_context::Context;
use alloc::boxed::Box;
use vellum_pte::{Entry, Format, Gate, Gfn, Leaf, Pfn, Raw, Replace, Write};

/// A table that is to take a leaf's place, frozen until the shoot-down.
#[derive(Debug)]
#[must_use = "thaw it after the shoot-down: accesses there are tried again until then"]
pub(crate) struct Replaced<F> {
    child: Box<Table<F>>,
}

/// What became of a leaf that was to be split.
#[must_use]
pub(crate) enum Split<F> {
    /// The table is in its place.
    Done,
    /// The entry is frozen.
    Frozen(Replaced<F>),
    /// It was not that leaf any more.
    Changed,
}

impl<F: Format> Table<F> {
    /// Splits the huge leaf `raw` at entry `index`.
    #[cold]
    pub(crate) fn split<E: Embedder>(
        &self,
        index: usize,
        raw: Raw,
        debt: &mut Debt<'_, E>,
        context: Context<'_, E>,
    ) -> Result<Split<F>, OutOfMemory> {
        let Entry::Leaf(leaf) = F::decode(raw, self.level()) else { return Ok(Split::Changed) };
        let child = self.make_child(index, context.embedder)?;
        child.fill(leaf, context);
        let split = match Self::replace(context) {
            Replace::AtOnce => self.exchange(index, raw, child, context),
            Replace::BreakFirst => self.freeze(index, raw, child),
        };
        Ok(match split {
            Ok(split) => {
                debt.note(taken(leaf, &split));
                context.count(Event::Split);
                split
            }
            Err(child) => {
                context.embedder.release_frame(child.into_frame());
                Split::Changed
            }
        })
    }

    fn replace<E: Embedder>(context: Context<'_, E>) -> Replace {
        if context.breaks.has(Break::SkipBreak) { Replace::AtOnce } else { F::REPLACE }
    }

    /// The leaves that say what `leaf` says, but none of them storable. Nobody sees them yet.
    fn fill<E: Embedder>(&self, leaf: Leaf, context: Context<'_, E>) {
        let write = match leaf.write {
            Write::Denied | Write::Partial => Write::Denied,
            _ if context.breaks.has(Break::SplitLifts) => Write::Storable,
            Write::Storable | Write::Liftable => Write::Liftable,
        };
        for index in 0..TableFrame::<F>::ENTRIES {
            let frame = Pfn::new(leaf.frame.get() + index as u64 * self.pages_an_entry());
            // D of a huge leaf says nothing of a page.
            let small = Leaf { frame, write, dirty: false, ..leaf };
            self.entry(index).publish(F::encode(Entry::Leaf(small), self.level()));
        }
    }

    fn exchange<E: Embedder>(
        &self,
        index: usize,
        raw: Raw,
        child: Box<Self>,
        context: Context<'_, E>,
    ) -> Result<Split<F>, Box<Self>> {
        self.link_over(index, raw, child, context).map(|()| Split::Done)
    }

    fn freeze(&self, index: usize, raw: Raw, child: Box<Self>) -> Result<Split<F>, Box<Self>> {
        match self.entry(index).compare_exchange(raw, self.frozen(child.pfn())) {
            Ok(()) => Ok(Split::Frozen(Replaced { child })),
            Err(_) => Err(child),
        }
    }

    pub(super) fn frozen(&self, table: Pfn) -> Raw {
        F::encode(Entry::Frozen { table }, self.level())
    }

    /// Puts `child` in the place of `raw`, if that is still there. A new table takes this one's
    /// generation, **read under this one's lock**, and holds nothing storable (W1).
    fn link_over<E: Embedder>(
        &self,
        index: usize,
        raw: Raw,
        child: Box<Self>,
        context: Context<'_, E>,
    ) -> Result<(), Box<Self>> {
        let locked = self.lock(context);
        child.lock(context).generation = locked.generation;
        let entry = F::encode(Entry::table(child.pfn(), Gate::Open), self.level());
        if context.breaks.has(Break::ThawBlindly) {
            self.entry(index).publish(entry);
        } else if self.entry(index).compare_exchange(raw, entry).is_err() {
            return Err(child);
        }
        self.adopt(index, child, context);
        Ok(())
    }
}

/// Whether the split took anything away that a TLB may hold.
fn taken<F>(leaf: Leaf, split: &Split<F>) -> Closed {
    let frozen = matches!(split, Split::Frozen(_));
    if frozen || leaf.write == Write::Storable { Closed::Now } else { Closed::Before }
}

impl<F: Format> Replaced<F> {
    /// The first page of the leaf that was there.
    pub(crate) fn first(&self) -> Gfn {
        self.child.base
    }

    /// Puts the table in its place, below `root`, unless that was cleared meanwhile.
    pub(crate) fn thaw<E: Embedder>(self, root: &Table<F>, context: Context<'_, E>) {
        let above = root.lowest(self.first());
        let index = above.index(self.first());
        let frozen = above.frozen(self.child.pfn());
        if let Err(child) = above.link_over(index, frozen, self.child, context) {
            context.embedder.release_frame(child.into_frame());
        }
    }
}
