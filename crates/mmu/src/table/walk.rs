//! Going down: to a page's entry, making the tables on the way where a fault needs them.

use super::Table;
use crate::allocate::OutOfMemory;
use crate::counters::Event;
use crate::embedder::Embedder;
use crate::vm_context::Context;
use alloc::boxed::Box;
use core::ops::{ControlFlow, Range};
use vellum_pte::{Entry, Gate, Gfn, GfnRange, Level, TableFormat};

/// What is below an entry that should point to a table.
pub(crate) enum Linked<'t, F> {
    /// The table, new or not.
    Table(&'t Table<F>),
    /// A leaf has come there meanwhile, or a replacement is under way.
    Occupied,
    /// What was there may still be in a TLB, and hardware asks for break-before-make.
    NotYet,
}

impl<F: TableFormat> Table<F> {
    /// The lowest table above `gfn`: its entry is a leaf, or absent.
    #[inline]
    pub(crate) fn lowest(&self, gfn: Gfn) -> &Self {
        let mut table = self;
        while let Some(child) = table.child(table.index(gfn)) {
            table = child;
        }
        table
    }

    /// Whether stores pass every entry that points to a table on the way to a page, from this table
    /// on.
    pub(crate) fn is_open_to(&self, gfn: Gfn) -> bool {
        let index = self.index(gfn);
        match self.child(index) {
            Some(child) => F::is_storable(self.entry(index).load()) && child.is_open_to(gfn),
            None => true,
        }
    }

    /// Whether this table has pages from `gfn` on.
    #[inline]
    pub(crate) fn covers(&self, gfn: Gfn) -> bool {
        let shift = u32::from(self.level.get()) * F::INDEX_BITS;
        gfn.get() >> shift == self.base.get() >> shift
    }

    /// The page after the last, from `gfn` on, that this table has a leaf for if it has one for
    /// `gfn`: above the last level, the next entry may point to a table.
    #[inline]
    pub(crate) fn end_of_leaves(&self, gfn: Gfn) -> Gfn {
        let pages = match self.level {
            Level::L1 => 1 << F::INDEX_BITS,
            _ => self.pages_an_entry(),
        };
        Gfn::new((gfn.get() & !(pages - 1)) + pages)
    }

    /// Visits each table that has pages of `range`, from the top down, with the entries that are
    /// for them, until told to stop.
    pub(crate) fn visit<'t, B>(
        &'t self,
        range: GfnRange,
        visitor: &mut impl FnMut(&'t Self, Range<usize>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let span = self.span(range);
        visitor(self, span.clone())?;
        for child in span.filter_map(|index| self.child(index)) {
            child.visit(range, visitor)?;
        }
        ControlFlow::Continue(())
    }

    /// Visits them all.
    pub(crate) fn for_each<'t>(
        &'t self,
        range: GfnRange,
        visitor: &mut impl FnMut(&'t Self, Range<usize>),
    ) {
        let _: ControlFlow<()> = self.visit(range, &mut |table, span| {
            visitor(table, span);
            ControlFlow::Continue(())
        });
    }

    /// The table below entry `index`; a new one if there is nothing.
    #[cold]
    pub(crate) fn link<E: Embedder>(
        &self,
        index: usize,
        context: Context<'_, E>,
    ) -> Result<Linked<'_, F>, OutOfMemory> {
        let fresh = self.make_child(index, context.embedder)?;
        Ok(self.link_fresh(index, fresh, Gate::Open, context))
    }

    /// The table below entry `index`; `fresh` if there is nothing.
    pub(crate) fn link_fresh<E: Embedder>(
        &self,
        index: usize,
        fresh: Box<Self>,
        gate: Gate,
        context: Context<'_, E>,
    ) -> Linked<'_, F> {
        let (linked, spare) = self.link_or_find(index, fresh, gate, context);
        if let Some(spare) = spare {
            context.embedder.release_frame(spare.into_frame());
        }
        linked
    }

    /// An empty table that may go below entry `index`.
    pub(crate) fn make_child<E: Embedder>(
        &self,
        index: usize,
        embedder: &E,
    ) -> Result<Box<Self>, OutOfMemory> {
        let level = self.level.below().ok_or(OutOfMemory)?;
        let frame = embedder.allocate_frame().ok_or(OutOfMemory)?;
        Self::new_boxed(frame, level, self.base_of(index)).map_err(|(error, frame)| {
            embedder.release_frame(frame);
            error
        })
    }

    /// Links `fresh`, or finds that another was faster and gives it back.
    ///
    /// The new table is empty, so it is settled for this table's generation, **read under this
    /// table's lock**, and the entry may be open: W1 holds although a read links it.
    fn link_or_find<E: Embedder>(
        &self,
        index: usize,
        fresh: Box<Self>,
        gate: Gate,
        context: Context<'_, E>,
    ) -> (Linked<'_, F>, Option<Box<Self>>) {
        let locked = self.lock(context);
        if let Some(child) = self.child(index) {
            return (Linked::Table(child), Some(fresh));
        }
        if F::is_present(self.entry(index).load()) {
            return (Linked::Occupied, Some(fresh));
        }
        if context.debts.is_unmapping::<F>(context.breaks) {
            return (Linked::NotYet, Some(fresh));
        }
        fresh.lock(context).generation = locked.generation;
        let raw = F::encode(Entry::table(fresh.pfn(), gate), self.level);
        self.entry(index).publish(raw);
        (Linked::Table(self.adopt(index, fresh, context)), None)
    }

    /// Keeps the software half of a table that entry `index` points to by now. The lock is held.
    pub(super) fn adopt<E: Embedder>(
        &self,
        index: usize,
        child: Box<Self>,
        context: Context<'_, E>,
    ) -> &Self {
        self.writable.insert(index);
        context.count(Event::Linked);
        match self.children[index].set(child) {
            Ok(child) => child,
            Err(_) => unreachable!("links are made under the table's lock, and there was none"),
        }
    }

    /// Gives up the table for its frame. Its children are gone already.
    pub(crate) fn into_frame(self) -> crate::frame::Frame {
        self.frame.into_frame()
    }

    /// The pages of a leaf at `level` for `gfn`.
    pub(crate) fn around(gfn: Gfn, level: Level) -> GfnRange {
        let pages = Self::pages_at(level);
        let range = GfnRange::new(Gfn::new(gfn.get() & !(pages - 1)), pages);
        range.expect("tables translate less than all frame numbers")
    }

    /// Whether a leaf at `level` for `gfn` lies inside `range`.
    pub(crate) fn leaf_fits(level: Level, gfn: Gfn, range: GfnRange) -> bool {
        let pages = Self::pages_at(level);
        let first = Gfn::new(gfn.get() & !(pages - 1));
        first >= range.first() && first.get() + pages <= range.end().get()
    }
}
