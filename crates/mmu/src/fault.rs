//! A second-stage fault: the life of a guest write, steps 2 to 4.

mod access;
mod denied;

pub use access::Access;

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::counters::Event;
use crate::debts::Debt;
use crate::dirty_bits::DirtyBits;
use crate::embedder::{Backing, BackingWrite, Embedder};
use crate::invalidation::{Freshness, Invalidations, Sequence};
use crate::mmu::State;
use crate::protection::Protection;
use crate::ring::DirtyRing;
use crate::slots::{Slot, SlotAccess, SlotSpec};
use crate::sub_pages::Denial;
use crate::table::{Linked, Replaced, Split, Table};
use crate::vm_context::Context;
use vellum_pte::{AddressSpace, ClearAccessed, ClosedTable, Format, Gfn, Gpa, Level, Raw, Write};

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
    /// The store is the embedder's to make: it decodes the instruction and writes through
    /// [`GuestWriter`](crate::GuestWriter), which looks at each byte, logs, and tells the listeners.
    /// The page is tracked, or restricted and this store's first byte permitted.
    ///
    /// After an [`Access::Walk`] there is no store of the instruction's to this page: the instruction
    /// that walked is the embedder's to make as a whole, be it a load or a fetch.
    Emulate,
    /// A map of sub-pages forbids the store. The guest stays where it is.
    Denied(Denial),
    /// The table of sub-page permissions is not as the library wrote it: its memory was overwritten,
    /// or is broken. The VM cannot go on.
    Misconfigured,
    /// The embedder has no memory behind the page.
    NoBacking,
    /// Something is being changed just there: enter the guest again, the access will fault again
    /// or succeed.
    Retry,
    /// No memory for a table. The VM is whole; the access may be tried again.
    OutOfMemory,
}

impl From<OutOfMemory> for Outcome {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// One fault under way, inside the read side.
pub(crate) struct Fault<'s, 'm, F: Format, E> {
    pub(crate) state: &'s State<F>,
    pub(crate) protection: &'m Protection,
    pub(crate) invalidations: &'m Invalidations,
    pub(crate) context: Context<'m, E>,
    pub(crate) ring: Option<&'m DirtyRing>,
    pub(crate) space: AddressSpace,
    pub(crate) gpa: Gpa,
    pub(crate) gfn: Gfn,
    pub(crate) access: Access,
}

/// Logs a page that a vCPU has written or may write: in its ring, or, if it has none or no room, in the
/// slot's bitmap.
#[inline]
pub(crate) fn log_write(ring: Option<&DirtyRing>, slot: &Slot, gfn: Gfn) {
    let SlotSpec { id, space, .. } = slot.spec;
    let in_ring = ring.filter(|_| slot.log.is_some());
    if in_ring.is_none_or(|ring| ring.push(space, id, slot.page(gfn)).is_err()) {
        slot.mark(gfn);
    }
}

/// How far one attempt at a fault has come.
#[must_use]
pub(crate) enum Step<'m, F: Format, E: Embedder> {
    /// To its end.
    Done(Outcome),
    /// The tables have changed: look again.
    Again,
    /// A huge leaf was taken away: outside of the read side, pay, put the table there, look again.
    Break(Debt<'m, E>, Replaced<F>),
}

/// Under a name of its own: a step that ends early is written with `?`.
type Ended<'m, F, E> = Result<Step<'m, F, E>, Outcome>;

impl<'s, 'm, F: Format, E: Embedder> Fault<'s, 'm, F, E> {
    #[inline]
    pub(crate) fn handle(&self) -> Step<'m, F, E> {
        let Some(slot) = self.state.slots.find(self.space, self.gfn) else {
            return Step::Done(Outcome::Mmio);
        };
        if self.is_write() && slot.spec.access == SlotAccess::ReadOnly {
            return Step::Done(Outcome::ReadOnly);
        }
        let table = self.descend();
        self.touch(table);
        let raw = table.entry(table.index(self.gfn)).load();
        if F::is_leaf(raw, table.level()) {
            self.at_leaf(table, slot, raw)
        } else {
            self.at_nothing(table, slot, raw).unwrap_or_else(Step::Done)
        }
    }

    /// The lowest table above the page, the path to it open for the access.
    #[inline]
    fn descend(&self) -> &'s Table<F> {
        let mut table = self.state.roots.of(self.space, self.gfn);
        while let Some(child) = table.child(table.index(self.gfn)) {
            let index = table.index(self.gfn);
            if self.meets_closed(table.entry(index).load()) {
                self.open_path(table, index, child);
            }
            table = child;
        }
        table
    }

    /// Whether the access would fault at an entry that points to a table.
    #[inline]
    fn meets_closed(&self, raw: Raw) -> bool {
        (self.is_write() || const { matches!(F::CLOSED_TABLE, ClosedTable::Parked) })
            && !F::is_storable(raw)
    }

    /// A read opens a parked entry too: the table below is settled first, so it lifts nothing.
    #[cold]
    fn open_path(&self, table: &Table<F>, index: usize, child: &Table<F>) {
        if !self.is_write() {
            self.context.count(Event::Relinked);
            if self.context.breaks.has(Break::ReadLifts) {
                return table.open_unsettled(index, self.context);
            }
        }
        table.push_down(index, child, self.context);
    }

    #[inline]
    fn at_leaf(&self, table: &'s Table<F>, slot: &Slot, raw: Raw) -> Step<'m, F, E> {
        let used = match self.mark_used(table, raw) {
            Ok(used) => used,
            Err(step) => return step,
        };
        if !self.is_write() || F::is_storable(used) && !F::is_partial(used) {
            return Step::Done(self.nothing_more(raw, used));
        }
        if !F::is_liftable(used) {
            return self.at_denied(table, slot, used).unwrap_or_else(Step::Done);
        }
        if table.level() > Level::L1 && slot.log.is_some() {
            slot.prepare(self.gfn);
            return self.split(table, used).unwrap_or_else(Step::Done);
        }
        match self.open_leaf(table, slot, used) {
            Ok(()) => Step::Done(Outcome::Mapped),
            Err(_) => Step::Again,
        }
    }

    /// Sets A where an access without it may fault. Gives the entry as it is then.
    #[inline]
    fn mark_used(&self, table: &Table<F>, raw: Raw) -> Result<Raw, Step<'m, F, E>> {
        if const { matches!(F::CLEAR_ACCESSED, ClearAccessed::Passes) } || F::is_accessed(raw) {
            return Ok(raw);
        }
        let used = F::set_accessed(raw);
        let entry = table.entry(table.index(self.gfn));
        entry.compare_exchange(raw, used).map(|()| used).map_err(|_| Step::Again)
    }

    #[inline]
    fn nothing_more(&self, found: Raw, left: Raw) -> Outcome {
        if found != left {
            return Outcome::Mapped;
        }
        self.context.count(Event::Spurious);
        Outcome::Spurious
    }

    /// Dirties a leaf: **open the entry, add it to the set, mark the page**. No two may be
    /// exchanged. A huge leaf is opened so only where nothing is logged.
    #[inline]
    fn open_leaf(&self, table: &Table<F>, slot: &Slot, raw: Raw) -> Result<(), Raw> {
        let index = table.index(self.gfn);
        if self.context.breaks.has(Break::MarkEarly) {
            self.mark_early(slot);
            table.entry(index).compare_exchange(raw, F::open(raw))?;
            table.writable().insert(index);
            return Ok(());
        }
        table.entry(index).compare_exchange(raw, F::open(raw))?;
        table.writable().insert(index);
        self.mark(slot);
        self.context.count(Event::Opened);
        Ok(())
    }

    #[inline]
    fn mark(&self, slot: &Slot) {
        log_write(self.ring, slot, self.gfn);
    }

    /// Where D bits are the log, notes that stores to this table's pages need no fault any more.
    #[inline]
    fn touch(&self, table: &Table<F>) {
        if self.context.dirty_bits == DirtyBits::Scanned && table.level() == Level::L1 {
            self.state.touch(self.space, self.gfn);
        }
    }

    /// The deliberate bug [`Break::MarkEarly`], its window held open at some pages.
    #[cold]
    fn mark_early(&self, slot: &Slot) {
        self.mark(slot);
        if cfg!(loom) || self.gfn.get() % 32 == 7 {
            self.context.hold_open();
        }
    }

    /// The first logged write to a huge leaf.
    #[cold]
    fn split(&self, table: &Table<F>, raw: Raw) -> Ended<'m, F, E> {
        let mut debt = self.context.debts.raise(self.context);
        match table.split(table.index(self.gfn), raw, &mut debt, self.context) {
            Ok(Split::Frozen(replaced)) => Ok(Step::Break(debt, replaced)),
            // The leaf was not storable, so nothing was taken away; and this is inside of the read
            // side, where nobody shoots down.
            other => {
                debt.forgive();
                other.map(|_| Step::Again).map_err(Outcome::from)
            }
        }
    }

    /// No leaf is there: nothing at all, or a replacement, or a table that is being linked.
    #[cold]
    fn at_nothing(&self, table: &'s Table<F>, slot: &Slot, raw: Raw) -> Ended<'m, F, E> {
        if F::is_storable(raw) {
            // Whoever links the table holds the lock until it can be found.
            drop(table.lock(self.context));
            return Ok(Step::Again);
        }
        if F::is_present(raw) {
            return Err(Outcome::Retry);
        }
        if let Some(outcome) = self.forbidden(slot) {
            return Err(outcome);
        }
        let seen = self.invalidations.sequence();
        let page = slot.guest_page(self.gfn);
        let backing = self.context.embedder.resolve(page).ok_or(Outcome::NoBacking)?;
        if self.is_write() && backing.write == BackingWrite::Denied {
            return Err(Outcome::ReadOnly);
        }
        slot.prepare(self.gfn);
        let level = slot.largest_leaf::<F>(self.gfn, backing, self.context.breaks);
        match self.link_down_to(level, table)? {
            Linked::Table(table) => self.map(table, slot, backing, seen),
            Linked::Occupied => Ok(Step::Again),
            Linked::NotYet => Err(Outcome::Retry),
        }
    }

    /// How a write to a page ends that its mapping will not let pass.
    fn forbidden(&self, slot: &Slot) -> Option<Outcome> {
        if self.is_write() { Self::stopped(&self.ruling(slot)) } else { None }
    }

    /// The table at `level` for the page, from `table` on, which is at that level or above it. At a
    /// lower one, it is that table.
    fn link_down_to(
        &self,
        level: Level,
        table: &'s Table<F>,
    ) -> Result<Linked<'s, F>, OutOfMemory> {
        let mut table = table;
        while table.level() > level {
            match table.link(table.index(self.gfn), self.context)? {
                Linked::Table(child) => table = child,
                other => return Ok(other),
            }
        }
        Ok(Linked::Table(table))
    }

    /// Maps an absent page, under its table's lock, where everything is looked at again.
    fn map(
        &self,
        table: &'s Table<F>,
        slot: &Slot,
        backing: Backing,
        seen: Sequence,
    ) -> Ended<'m, F, E> {
        let index = table.index(self.gfn);
        let locked = table.lock(self.context);
        if table.child(index).is_some() || F::is_present(table.entry(index).load()) {
            return Ok(Step::Again);
        }
        if self.context.debts.is_unmapping::<F>(self.context.breaks) {
            return Err(Outcome::Retry);
        }
        let range = table.range_of(index);
        let fresh = self.invalidations.freshness(seen, range, self.context.embedder);
        if fresh == Freshness::Stale {
            return Err(Outcome::Retry);
        }
        let write = self.install(table, slot, backing);
        self.touch(table);
        drop(locked);
        // A write to a page that is restricted: it asks again at the leaf.
        let met = !self.is_write() || write == Write::Storable;
        Ok(if met { Step::Done(Outcome::Mapped) } else { Step::Again })
    }

    /// Writes the leaf; the table's lock is held. A storable leaf goes through the same three
    /// steps as in [`open_leaf`](Self::open_leaf).
    fn install(&self, table: &Table<F>, slot: &Slot, backing: Backing) -> Write {
        let index = table.index(self.gfn);
        let range = table.range_of(index);
        let write = match slot.permission(range, backing.write, self.protection.state()) {
            Write::Liftable if self.is_write() => Write::Storable,
            other => other,
        };
        let within = self.gfn.get() & (table.pages_an_entry() - 1);
        let frame = vellum_pte::Pfn::new(backing.frame.get() - within);
        table.entry(index).publish(table.leaf_of(frame, write));
        if write == Write::Storable {
            table.writable().insert(index);
        }
        if self.is_write() && write == Write::Storable {
            self.mark(slot);
        }
        self.context.count(Event::Mapped);
        write
    }

    #[inline]
    fn is_write(&self) -> bool {
        matches!(self.access, Access::Write | Access::Walk)
    }
}
