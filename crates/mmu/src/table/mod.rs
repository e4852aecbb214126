//! A table: one hardware table page and its software half.

mod age;
mod forbid;
mod recover;
mod settle;
mod split;
mod unmap;
mod walk;
mod writable_set;
mod zap;

pub(crate) use age::HowToAge;
pub(crate) use recover::{Buried, Recoverable};
pub(crate) use split::{Replaced, Split};
pub(crate) use walk::Linked;
pub(crate) use zap::Graveyard;

use crate::allocate::{OutOfMemory, try_box, try_slice};
use crate::embedder::Embedder;
use crate::frame::{Closed, EntryCell, Frame, TableFrame};
use crate::lock::{SpinGuard, SpinLock};
use crate::once_box::OnceBox;
use crate::vm_context::Context;
use alloc::boxed::Box;
use vellum_pte::{Gfn, GfnRange, Level, Pfn, TableFormat};
use writable_set::WritableSet;

/// What a table's lock protects: linking, settling and pushing down, and the generation they are
/// about.
#[derive(Debug)]
pub(crate) struct Locked {
    /// The generation of write-protect-all that this table was last settled for.
    pub(crate) generation: u64,
    /// Whether a settle has taken storability from an entry since somebody last made sure of a
    /// shoot-down after it.
    pub(crate) closed: Closed,
}

/// One table of the second stage.
#[derive(Debug)]
pub(crate) struct Table<F> {
    frame: TableFrame<F>,
    level: Level,
    base: Gfn,
    writable: WritableSet,
    locked: SpinLock<Locked>,
    /// The software halves of the tables below, by index; empty at the last level.
    children: Box<[OnceBox<Table<F>>]>,
    /// The next in a [`Graveyard`].
    next: Option<Box<Table<F>>>,
}

impl<F: TableFormat> Table<F> {
    /// An empty table for the pages from `base` on, of the first generation.
    pub(crate) fn new_boxed(
        frame: Frame,
        level: Level,
        base: Gfn,
    ) -> Result<Box<Self>, (OutOfMemory, Frame)> {
        let table = Self::new(frame, level, base)?;
        try_box(table).map_err(|(error, table)| (error, table.into_frame()))
    }

    pub(crate) fn new(frame: Frame, level: Level, base: Gfn) -> Result<Self, (OutOfMemory, Frame)> {
        const { assert!(TableFrame::<F>::ENTRIES <= writable_set::ROOM) };
        let children = if level > Level::L1 { TableFrame::<F>::ENTRIES } else { 0 };
        match try_slice(children, OnceBox::new) {
            Err(error) => Err((error, frame)),
            Ok(children) => Ok(Self {
                frame: TableFrame::new(frame),
                level,
                base,
                writable: WritableSet::new(),
                locked: SpinLock::new(Locked { generation: 0, closed: Closed::Before }),
                children,
                next: None,
            }),
        }
    }

    pub(crate) const fn level(&self) -> Level {
        self.level
    }

    pub(crate) const fn pfn(&self) -> Pfn {
        self.frame.pfn()
    }

    /// Which entry is for `gfn`.
    #[inline]
    pub(crate) fn index(&self, gfn: Gfn) -> usize {
        let shift = u32::from(self.level.get() - 1) * F::INDEX_BITS;
        let mask = TableFrame::<F>::ENTRIES as u64 - 1;
        usize::try_from(gfn.get() >> shift & mask).unwrap_or(0)
    }

    /// The first page of entry `index`.
    pub(crate) fn base_of(&self, index: usize) -> Gfn {
        Gfn::new(self.base.get() + index as u64 * self.pages_an_entry())
    }

    /// The pages of entry `index`.
    pub(crate) fn range_of(&self, index: usize) -> GfnRange {
        let range = GfnRange::new(self.base_of(index), self.pages_an_entry());
        range.expect("tables translate less than all frame numbers")
    }

    /// How many pages one entry is for.
    pub(crate) fn pages_an_entry(&self) -> u64 {
        Self::pages_at(self.level)
    }

    /// How many pages one entry of a table at `level` is for.
    #[inline]
    pub(crate) fn pages_at(level: Level) -> u64 {
        1 << (u32::from(level.get() - 1) * F::INDEX_BITS)
    }

    /// The entries that have a page of `range`: the first, and the one after the last.
    pub(crate) fn span(&self, range: GfnRange) -> core::ops::Range<usize> {
        let place = |gfn: Gfn| gfn.get().saturating_sub(self.base.get());
        let first = place(range.first()) / self.pages_an_entry();
        let end = place(range.end()).div_ceil(self.pages_an_entry());
        let clamp = |index: u64| index.min(TableFrame::<F>::ENTRIES as u64);
        #[allow(clippy::cast_possible_truncation)]
        let span = clamp(first) as usize..clamp(end) as usize;
        span
    }

    #[inline]
    pub(crate) fn entry(&self, index: usize) -> EntryCell<'_> {
        self.frame.entry(index)
    }

    #[inline]
    pub(crate) fn child(&self, index: usize) -> Option<&Self> {
        self.children.get(index)?.get()
    }

    #[inline]
    pub(crate) const fn writable(&self) -> &WritableSet {
        &self.writable
    }

    /// Waits for the table's lock. Order: from the root down.
    #[inline]
    pub(crate) fn lock<E: Embedder>(&self, context: Context<'_, E>) -> SpinGuard<'_, Locked> {
        context.count(crate::counters::Event::TableLock);
        self.locked.lock(context.embedder)
    }
}
