//! A walk of the sub-page tables that found nothing: they are made when they are asked for.

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::embedder::Embedder;
use crate::fault::Outcome;
use crate::mmu::State;
use crate::table::{Linked, Table};
use crate::vm_context::Context;
use vellum_pte::{AddressSpace, Format, Gate, Gfn, Level, SubPageFormat, TableFormat};

/// One miss under way, inside the read side: no map changes meanwhile.
pub(crate) struct Miss<'s, 'm, F: Format, E> {
    pub(crate) state: &'s State<F>,
    pub(crate) context: Context<'m, E>,
    pub(crate) space: AddressSpace,
    pub(crate) gfn: Gfn,
}

impl<'s, F: Format, E: Embedder> Miss<'s, '_, F, E> {
    /// Makes the path to the page's vector, and opens what write-protect-all has closed of it.
    pub(crate) fn handle(&self) -> Outcome {
        let Some(roots) = self.state.sub_pages.tables().filter(|roots| roots.has(self.space))
        else {
            return Outcome::Spurious;
        };
        if self.state.slots.find(self.space, self.gfn).is_none() {
            return Outcome::Mmio;
        }
        // Hardware has seen a leaf that asks these tables, which may have gone with its slot since. A
        // table of leaves that came after the opening would be as old as the table above it, and
        // could be settled later than stores pass: then the access has to fault first.
        let leaves = self.state.roots.of(self.space, self.gfn).lowest(self.gfn);
        if leaves.level() > Level::L1 {
            return Outcome::Spurious;
        }
        match self.open_path(roots.of(self.space, self.gfn), leaves) {
            Ok(()) => Outcome::Mapped,
            Err(OutOfMemory) => Outcome::OutOfMemory,
        }
    }

    fn open_path(
        &self,
        root: &'s Table<F::SubPages>,
        leaves: &'s Table<F>,
    ) -> Result<(), OutOfMemory> {
        let mut table = root;
        while table.level() > Level::L1 {
            let index = table.index(self.gfn);
            let child = self.child(table, index)?;
            if !F::SubPages::is_storable(table.entry(index).load()) {
                self.open(table, index, child, leaves);
            }
            table = child;
        }
        Ok(())
    }

    /// Opens an entry over a table that is settled for the same generation. **Above the vectors, the
    /// leaf table of the same pages is settled with it**: vectors have no bit to close, so nothing
    /// else makes those pages fault again.
    fn open(
        &self,
        table: &Table<F::SubPages>,
        index: usize,
        child: &Table<F::SubPages>,
        leaves: &Table<F>,
    ) {
        table.push_down_with(index, child, self.context, |generation| {
            if child.level() == Level::L1 && !self.context.breaks.has(Break::OpenOverLeaves) {
                leaves.catch_up(generation, self.context);
            }
        });
    }

    /// The table below entry `index`, linked closed if it is new.
    fn child(
        &self,
        table: &'s Table<F::SubPages>,
        index: usize,
    ) -> Result<&'s Table<F::SubPages>, OutOfMemory> {
        if let Some(child) = table.child(index) {
            return Ok(child);
        }
        let fresh = table.make_child(index, self.context.embedder)?;
        self.spell(&fresh);
        match table.link_fresh(index, fresh, Gate::Closed, self.context) {
            Linked::Table(child) => Ok(child),
            Linked::Occupied | Linked::NotYet => {
                unreachable!("nothing but tables is linked here, and in one step")
            }
        }
    }

    /// Fills a new table of vectors with the maps of its pages. Nobody sees it yet.
    fn spell(&self, fresh: &Table<F::SubPages>) {
        if fresh.level() > Level::L1 {
            return;
        }
        for index in 0..1 << F::SubPages::INDEX_BITS {
            let gfn = fresh.base_of(index);
            let slot = self.state.slots.find(self.space, gfn);
            if let Some(map) = slot.map(|slot| slot.map(gfn)).filter(|map| !map.is_all()) {
                fresh.entry(index).publish(F::SubPages::vector(map));
            }
        }
    }
}
