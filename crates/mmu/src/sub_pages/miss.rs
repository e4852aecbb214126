//! A walk of the sub-page tables that found nothing: they are made when they are asked for.

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::embedder::Embedder;
use crate::fault::Outcome;
use crate::frame::Closed;
use crate::mmu::State;
use crate::table::{Linked, Table};
use crate::vm_context::Context;
use core::ops::ControlFlow;
use vellum_pte::{AddressSpace, Format, Gate, Gfn, Level, SubPageFormat, TableFormat};

/// One miss under way, inside the read side: no map changes meanwhile.
pub(crate) struct Miss<'s, 'm, F: Format, E> {
    pub(crate) state: &'s State<F>,
    pub(crate) context: Context<'m, E>,
    pub(crate) space: AddressSpace,
    pub(crate) gfn: Gfn,
    /// What an attempt before this one asked for, and was made since.
    pub(crate) made: Option<ShootDown>,
}

/// One that has to be made before stores pass, outside of the read side: processors may remember
/// leaves that were closed, and would ask the tables that open. It is for all that was closed up to a
/// generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShootDown(u64);

/// How far one attempt at a miss has come.
#[must_use]
pub(crate) enum Missed {
    /// To its end.
    Done(Outcome),
    /// To where a shoot-down is missing: make it, then try again.
    ShootDownFirst(ShootDown),
}

/// Why a path does not open.
enum Shut {
    OutOfMemory,
    ShootDownFirst(ShootDown),
}

impl From<OutOfMemory> for Shut {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl<'s, F: Format, E: Embedder> Miss<'s, '_, F, E> {
    /// Makes the path to the page's vector, and opens what write-protect-all has closed of it.
    pub(crate) fn handle(&self) -> Missed {
        let Some(roots) = self.state.sub_pages.tables().filter(|roots| roots.has(self.space))
        else {
            return Missed::Done(Outcome::Spurious);
        };
        if self.state.slots.find(self.space, self.gfn).is_none() {
            return Missed::Done(Outcome::Mmio);
        }
        // Hardware has seen a leaf that asks these tables, which may have gone with its slot since. A
        // table of leaves that came after the opening would be as old as the table above it, and
        // could be settled later than stores pass: then the access has to fault first.
        let leaves = self.state.roots.of(self.space, self.gfn).lowest(self.gfn);
        if leaves.level() > Level::L1 {
            return Missed::Done(Outcome::Spurious);
        }
        match self.open_path(roots.of(self.space, self.gfn), leaves) {
            Ok(()) => {
                self.state.touch(self.space, self.gfn);
                Missed::Done(Outcome::Mapped)
            }
            Err(Shut::OutOfMemory) => Missed::Done(Outcome::OutOfMemory),
            Err(Shut::ShootDownFirst(shoot_down)) => Missed::ShootDownFirst(shoot_down),
        }
    }

    fn open_path(&self, root: &'s Table<F::SubPages>, leaves: &'s Table<F>) -> Result<(), Shut> {
        let mut table = root;
        while table.level() > Level::L1 {
            let index = table.index(self.gfn);
            let child = self.child(table, index)?;
            let closed = !F::SubPages::is_storable(table.entry(index).load());
            if closed && let ControlFlow::Break(first) = self.open(table, index, child, leaves) {
                return Err(Shut::ShootDownFirst(first));
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
    ) -> ControlFlow<ShootDown> {
        table.push_down_with(index, child, self.context, |generation| {
            if child.level() > Level::L1 || self.context.breaks.has(Break::OpenOverLeaves) {
                return ControlFlow::Continue(());
            }
            self.settle_and_forget(leaves, generation)
        })
    }

    /// Settles leaves, and makes sure that no processor remembers one as it was. A walk reads its leaf
    /// first and asks the sub-page tables then: a leaf that was read before the settle, or is in a TLB,
    /// would find them open. So a push-down needs a shoot-down of its own here, if a settle has closed
    /// anything since the last, or **somebody else has closed a leaf and not shot down yet** (F2).
    fn settle_and_forget(&self, leaves: &Table<F>, generation: u64) -> ControlFlow<ShootDown> {
        let mut locked = leaves.lock(self.context);
        leaves.catch_up_locked(&mut locked, generation, self.context);
        let wanted = ShootDown(locked.generation);
        if self.made >= Some(wanted) {
            locked.closed = Closed::Before;
            return ControlFlow::Continue(());
        }
        let Context { debts, breaks, .. } = self.context;
        if locked.closed == Closed::Now || debts.is_any_outstanding(breaks) {
            return ControlFlow::Break(wanted);
        }
        ControlFlow::Continue(())
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
