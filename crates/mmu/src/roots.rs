//! The root tables: one tree for each address space, or several side by side on Arm.

use crate::allocate::OutOfMemory;
use crate::embedder::Embedder;
use crate::frame::Frame;
use crate::table::{Graveyard, Table};
use alloc::vec::Vec;
use vellum_pte::{AddressSpace, Gfn, GfnRange, Level, PAGE_SHIFT, Pfn, Root, TableFormat};

/// All root tables, one address space after the other.
#[derive(Debug)]
pub(crate) struct Roots<F> {
    tables: Vec<Table<F>>,
    shape: Root,
    spaces: u16,
}

impl<F: TableFormat> Roots<F> {
    /// Empty tables for so many spaces. Out of memory, none is kept.
    pub(crate) fn new<E: Embedder>(
        spaces: u16,
        shape: Root,
        embedder: &E,
    ) -> Result<Self, OutOfMemory> {
        let mut roots = Self { shape, ..Self::none() };
        for _ in 0..spaces {
            if let Err(error) = roots.add_space(embedder) {
                roots.release(embedder);
                return Err(error);
            }
        }
        Ok(roots)
    }

    /// Of no space.
    pub(crate) const fn none() -> Self {
        let shape = Root { level: Level::L1, tables: 1 };
        Self { tables: Vec::new(), shape, spaces: 0 }
    }

    pub(crate) const fn shape(&self) -> Root {
        self.shape
    }

    pub(crate) const fn spaces(&self) -> u16 {
        self.spaces
    }

    /// How many bits of guest address a space's tables translate.
    pub(crate) const fn address_bits(&self) -> u32 {
        let table = PAGE_SHIFT + self.shape.level.get() as u32 * F::INDEX_BITS;
        table + self.shape.tables.ilog2()
    }

    pub(crate) const fn has(&self, space: AddressSpace) -> bool {
        space.0 < self.spaces
    }

    /// The frame of a space's first root table.
    pub(crate) fn first(&self, space: AddressSpace) -> Option<Pfn> {
        self.has(space).then(|| self.of(space, Gfn::new(0)).pfn())
    }

    /// The root table above `gfn`, which is in reach of a space that there is.
    #[inline]
    pub(crate) fn of(&self, space: AddressSpace, gfn: Gfn) -> &Table<F> {
        &self.tables[self.place(space, gfn)]
    }

    /// The same, with faults kept out.
    pub(crate) fn of_mut(&mut self, space: AddressSpace, gfn: Gfn) -> &mut Table<F> {
        let place = self.place(space, gfn);
        &mut self.tables[place]
    }

    /// The root tables of a space that have pages of `range`.
    pub(crate) fn over(
        &self,
        space: AddressSpace,
        range: GfnRange,
    ) -> impl Iterator<Item = &Table<F>> {
        self.tables[self.places(space, range)].iter()
    }

    /// The same, with faults kept out.
    pub(crate) fn over_mut(
        &mut self,
        space: AddressSpace,
        range: GfnRange,
    ) -> impl Iterator<Item = &mut Table<F>> {
        let places = self.places(space, range);
        self.tables[places].iter_mut()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Table<F>> {
        self.tables.iter()
    }

    /// Gives every frame back: no processor remembers a table any more (F1).
    pub(crate) fn release<E: Embedder>(self, embedder: &E) {
        for (place, mut table) in self.tables.into_iter().enumerate() {
            let mut graveyard = Graveyard::new();
            table.bury_children(&mut graveyard);
            graveyard.release(embedder);
            if place.is_multiple_of(self.shape.tables as usize) {
                embedder.release_roots(table.into_frame(), self.shape.tables);
            }
        }
    }

    /// Makes one space's tables; without memory for all of them, none.
    fn add_space<E: Embedder>(&mut self, embedder: &E) -> Result<(), OutOfMemory> {
        let (before, count) = (self.tables.len(), self.shape.tables);
        self.tables.try_reserve(count as usize).map_err(|_| OutOfMemory)?;
        let first = embedder.allocate_roots(count).ok_or(OutOfMemory)?;
        if let Err(error) = (0..count).try_for_each(|place| self.add_table(&first, place)) {
            self.tables.truncate(before);
            embedder.release_roots(first, count);
            return Err(error);
        }
        self.spaces += 1;
        Ok(())
    }

    fn add_table(&mut self, first: &Frame, place: u32) -> Result<(), OutOfMemory> {
        let Root { level, .. } = self.shape;
        let base = Gfn::new(u64::from(place) << (u32::from(level.get()) * F::INDEX_BITS));
        let table = Table::new(first.beside(place), level, base);
        self.tables.push(table.map_err(|(error, _)| error)?);
        Ok(())
    }

    #[inline]
    fn place(&self, space: AddressSpace, gfn: Gfn) -> usize {
        let shift = u32::from(self.shape.level.get()) * F::INDEX_BITS;
        let within = usize::try_from(gfn.get() >> shift).unwrap_or(usize::MAX);
        usize::from(space.0) * self.shape.tables as usize + within
    }

    /// The places of the tables over a range in reach, which has pages.
    fn places(&self, space: AddressSpace, range: GfnRange) -> core::ops::RangeInclusive<usize> {
        let last = Gfn::new(range.end().get() - 1);
        self.place(space, range.first())..=self.place(space, last)
    }
}
