//! Going down: to a page's table, making the tables on the way where a fault needs them.

use super::Table;
use crate::allocate::{OutOfMemory, try_box};
use crate::counters::Event;
use crate::embedder::Embedder;
use crate::vm_context::Context;
use alloc::boxed::Box;
use vellum_pte::{Entry, Format, Gate, Gfn, GfnRange, Level, Raw};

impl<F: Format> Table<F> {
    /// The last-level table for `gfn`, if there is one.
    #[inline]
    pub(crate) fn leaf_table(&self, gfn: Gfn) -> Option<&Self> {
        let mut table = self;
        while table.level > Level::L1 {
            table = table.child(table.index(gfn))?;
        }
        Some(table)
    }

    /// Whether `gfn` has its entry in this last-level table.
    #[inline]
    pub(crate) fn covers(&self, gfn: Gfn) -> bool {
        gfn.get() >> F::INDEX_BITS == self.base.get() >> F::INDEX_BITS
    }

    /// The number of the first page after `gfn` that is in another last-level table.
    pub(crate) const fn end_of_leaf_table(gfn: Gfn) -> u64 {
        ((gfn.get() >> F::INDEX_BITS) + 1) << F::INDEX_BITS
    }

    /// Calls `visit` for each last-level table that has a page of `range`.
    pub(crate) fn for_each_leaf_table<'t>(
        &'t self,
        range: GfnRange,
        visit: &mut impl FnMut(&'t Self),
    ) {
        if self.level == Level::L1 {
            return visit(self);
        }
        for child in self.span(range).filter_map(|index| self.child(index)) {
            child.for_each_leaf_table(range, visit);
        }
    }

    /// The table below entry `index`; a new one if there is none.
    #[cold]
    pub(crate) fn link<E: Embedder>(
        &self,
        index: usize,
        context: Context<'_, E>,
    ) -> Result<&Self, OutOfMemory> {
        let fresh = self.make_child(index, context)?;
        let (child, spare) = self.link_or_find(index, fresh, context);
        if let Some(spare) = spare {
            context.embedder.release_frame(spare.into_frame());
        }
        Ok(child)
    }

    fn make_child<E: Embedder>(
        &self,
        index: usize,
        context: Context<'_, E>,
    ) -> Result<Box<Self>, OutOfMemory> {
        let level = self.level.below().ok_or(OutOfMemory)?;
        Self::allocate(level, self.base_of(index), context.embedder)
    }

    /// A frame and its software half; without memory for either, none is kept.
    pub(crate) fn allocate<E: Embedder>(
        level: Level,
        base: Gfn,
        embedder: &E,
    ) -> Result<Box<Self>, OutOfMemory> {
        let frame = embedder.allocate_frame().ok_or(OutOfMemory)?;
        let table = Self::new(frame, level, base).map_err(|(error, frame)| {
            embedder.release_frame(frame);
            error
        })?;
        try_box(table).map_err(|(error, table)| {
            embedder.release_frame(table.into_frame());
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
        context: Context<'_, E>,
    ) -> (&Self, Option<Box<Self>>) {
        let locked = self.lock(context);
        if let Some(child) = self.child(index) {
            return (child, Some(fresh));
        }
        fresh.lock(context).generation = locked.generation;
        let raw = F::encode(Entry::table(fresh.pfn(), Gate::Open), self.level);
        self.entry(index).publish(raw);
        self.writable.insert(index);
        context.count(Event::Linked);
        match self.children[index].set(fresh) {
            Ok(child) => (child, None),
            Err(_) => unreachable!("links are made under the table's lock, and there was none"),
        }
    }

    /// Gives up the table for its frame. Its children are gone already.
    pub(crate) fn into_frame(self) -> crate::frame::Frame {
        self.frame.into_frame()
    }

    /// The entry for `gfn` in a last-level table.
    #[inline]
    pub(crate) fn leaf(&self, gfn: Gfn) -> Raw {
        self.entry(self.index(gfn)).load()
    }
}
