//! A second-stage fault: the life of a guest write, steps 2 to 4.

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::counters::Event;
use crate::embedder::{Backing, BackingWrite, Embedder};
use crate::mmu::State;
use crate::protection::{ProtectAll, Protection};
use crate::slots::{Slot, SlotAccess};
use crate::table::Table;
use crate::vm_context::Context;
use vellum_pte::{AddressSpace, Entry, Format, Gfn, Leaf, Level, Raw, Write};

/// What the guest was doing when it faulted. A walk of the guest's own page tables counts as a
/// write where hardware sets A and D bits in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// How a fault ended, and what the embedder does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// An entry was made or opened: enter the guest again, the access will succeed.
    Mapped,
    /// The entries already allow the access (another vCPU was faster, or a TLB held an older
    /// refusal): forget this address in the local TLB and enter the guest again.
    Spurious,
    /// No memslot is there: the access is for a device, or an error of the guest.
    Mmio,
    /// The memslot or its backing forbids writes.
    ReadOnly,
    /// The embedder has no memory behind the page.
    NoBacking,
    /// No memory for a table. The VM is whole; the access may be tried again.
    OutOfMemory,
}

impl From<OutOfMemory> for Outcome {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// One fault under way, inside the read side.
pub(crate) struct Fault<'a, F, E> {
    pub(crate) state: &'a State<F>,
    pub(crate) protection: &'a Protection,
    pub(crate) context: Context<'a, E>,
    pub(crate) space: AddressSpace,
    pub(crate) gfn: Gfn,
    pub(crate) access: Access,
}

impl<'a, F: Format, E: Embedder> Fault<'a, F, E> {
    #[inline]
    pub(crate) fn handle(&self) -> Outcome {
        let Some(slot) = self.state.slots.find(self.space, self.gfn) else {
            return Outcome::Mmio;
        };
        if self.is_write() && slot.spec.access == SlotAccess::ReadOnly {
            return Outcome::ReadOnly;
        }
        match self.descend() {
            Ok(table) => self.at_leaf(table, slot),
            Err(error) => error.into(),
        }
    }

    /// The last-level table for the page, with the path to it linked and, for a write, open.
    #[inline]
    fn descend(&self) -> Result<&'a Table<F>, OutOfMemory> {
        let mut table = self.state.root(self.space);
        while table.level() > Level::L1 {
            let index = table.index(self.gfn);
            let child = match table.child(index) {
                Some(child) => child,
                None => table.link(index, self.context)?,
            };
            if self.is_write() && !F::is_storable(table.entry(index).load()) {
                table.push_down(index, child, self.context);
            }
            table = child;
        }
        Ok(table)
    }

    #[inline]
    fn at_leaf(&self, table: &Table<F>, slot: &Slot) -> Outcome {
        let mut raw = table.leaf(self.gfn);
        loop {
            if !F::is_present(raw) {
                return self.map(table, slot);
            }
            if !self.is_write() || F::is_storable(raw) {
                self.context.count(Event::Spurious);
                return Outcome::Spurious;
            }
            if !F::is_liftable(raw) {
                return Outcome::ReadOnly;
            }
            match self.open_leaf(table, slot, raw) {
                Ok(()) => return Outcome::Mapped,
                Err(newer) => raw = newer,
            }
        }
    }

    /// Dirties a leaf: **open the entry, add it to the set, mark the page**. No two may be
    /// exchanged.
    #[inline]
    fn open_leaf(&self, table: &Table<F>, slot: &Slot, raw: Raw) -> Result<(), Raw> {
        if self.context.breaks.has(Break::MarkEarly) {
            self.mark_early(slot);
            table.entry(table.index(self.gfn)).compare_exchange(raw, F::open(raw))?;
            table.writable().insert(table.index(self.gfn));
            return Ok(());
        }
        let index = table.index(self.gfn);
        table.entry(index).compare_exchange(raw, F::open(raw))?;
        table.writable().insert(index);
        slot.mark(self.gfn);
        self.context.count(Event::Opened);
        Ok(())
    }

    /// The deliberate bug [`Break::MarkEarly`], its window held open at some pages.
    #[cold]
    fn mark_early(&self, slot: &Slot) {
        slot.mark(self.gfn);
        if cfg!(loom) || self.gfn.get() % 32 == 7 {
            self.context.hold_open();
        }
    }

    /// Maps an absent page, under its table's lock, where it is looked at again.
    #[cold]
    fn map(&self, table: &Table<F>, slot: &Slot) -> Outcome {
        let Some(backing) = self.context.embedder.resolve(self.space, self.gfn) else {
            return Outcome::NoBacking;
        };
        if self.is_write() && backing.write == BackingWrite::Denied {
            return Outcome::ReadOnly;
        }
        slot.prepare(self.gfn);
        let locked = table.lock(self.context);
        if F::is_present(table.leaf(self.gfn)) {
            drop(locked);
            return self.at_leaf(table, slot);
        }
        self.install(table, slot, backing);
        Outcome::Mapped
    }

    /// Writes the leaf; the table's lock is held. A storable leaf goes through the same three
    /// steps as in [`open_leaf`](Self::open_leaf).
    fn install(&self, table: &Table<F>, slot: &Slot, backing: Backing) {
        let write = self.permission(slot, backing);
        let index = table.index(self.gfn);
        let leaf = Entry::Leaf(Leaf::new(backing.frame, write));
        table.entry(index).publish(F::encode(leaf, Level::L1));
        if write == Write::Storable {
            table.writable().insert(index);
        }
        if self.is_write() {
            slot.mark(self.gfn);
        }
        self.context.count(Event::Mapped);
    }

    /// A leaf may be storable at once if the guest is writing, or if nobody would hear of it: no
    /// log, and no write-protect-all that a read must not lift. The lock orders the look at the
    /// indicator: a table stamped by a later write-protect-all is settled after this.
    fn permission(&self, slot: &Slot, backing: Backing) -> Write {
        let unheard = slot.log.is_none() && self.protection.state() == ProtectAll::Off;
        if slot.spec.access == SlotAccess::ReadOnly || backing.write == BackingWrite::Denied {
            Write::Denied
        } else if self.is_write() || unheard {
            Write::Storable
        } else {
            Write::Liftable
        }
    }

    #[inline]
    fn is_write(&self) -> bool {
        self.access == Access::Write
    }
}
