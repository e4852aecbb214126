//! The tables that enforce maps, or their absence.

use super::SubPageForm;
use crate::allocate::OutOfMemory;
use crate::embedder::Embedder;
use crate::roots::Roots;
use crate::table::{Graveyard, Table};
use vellum_pte::{
    AddressSpace, Format, Gfn, GfnRange, Level, SubPageFormat, SubPageMap, TableFormat,
};

/// How maps are enforced.
pub(crate) enum Enforcement<F: Format> {
    /// There are none.
    Inactive,
    /// By tables, one tree for each address space.
    ByTables(Roots<F::SubPages>),
    /// By emulation.
    ByEmulation,
}

impl<F: Format> Enforcement<F> {
    /// For as many address spaces, of the same reach, as there are page tables.
    pub(super) fn new<E: Embedder>(
        form: SubPageForm,
        pages: &Roots<F>,
        embedder: &E,
    ) -> Result<Self, OutOfMemory> {
        let shape = <F::SubPages as TableFormat>::root(pages.address_bits());
        match (form, shape) {
            (SubPageForm::ByTables, Some(shape)) => {
                Roots::new(pages.spaces(), shape, embedder).map(Self::ByTables)
            }
            _ => Ok(Self::ByEmulation),
        }
    }

    pub(super) const fn is_active(&self) -> bool {
        !matches!(self, Self::Inactive)
    }

    pub(crate) const fn tables(&self) -> Option<&Roots<F::SubPages>> {
        if let Self::ByTables(roots) = self { Some(roots) } else { None }
    }

    /// The root tables, one for each of the pages' own: formats with sub-page tables have single
    /// roots.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Table<F::SubPages>> {
        self.tables().into_iter().flat_map(Roots::all)
    }

    /// Whether a permitted store to a page passes, whatever its page tables' upper entries say.
    pub(crate) fn pass(&self, space: AddressSpace, gfn: Gfn) -> bool {
        self.tables().is_some_and(|roots| {
            let root = roots.of(space, gfn);
            root.lowest(gfn).level() == Level::L1 && root.is_open_to(gfn)
        })
    }

    /// Makes the tables say what a page's new map is, if they say anything of it yet.
    pub(super) fn set_vector(&self, space: AddressSpace, gfn: Gfn, map: SubPageMap) {
        let Some(roots) = self.tables() else { return };
        let table = roots.of(space, gfn).lowest(gfn);
        if table.level() == Level::L1 {
            table.entry(table.index(gfn)).publish(F::SubPages::vector(map));
        }
    }

    pub(crate) fn zap(
        &mut self,
        space: AddressSpace,
        range: GfnRange,
        graveyard: &mut Graveyard<F::SubPages>,
    ) {
        if let Self::ByTables(roots) = self {
            for root in roots.over_mut(space, range) {
                root.zap(range, graveyard);
            }
        }
    }

    /// Gives every frame back: no processor remembers a table any more (F1), or ever saw one.
    pub(crate) fn release<E: Embedder>(self, embedder: &E) {
        if let Self::ByTables(roots) = self {
            roots.release(embedder);
        }
    }
}
