//! Settle and push down: the two halves of write-protect-all.

use super::{Locked, Table};
use crate::breaks::Break;
use crate::counters::Event;
use crate::dirty_bits::DirtyBits;
use crate::embedder::Embedder;
use crate::frame::Closed;
use crate::lock::SpinGuard;
use crate::vm_context::Context;
use core::convert::Infallible;
use core::ops::ControlFlow;
use vellum_pte::{Format, Level, TableFormat};

impl<F: TableFormat> Table<F> {
    /// Settles the table for `generation`: after it no entry is storable, but for those that a
    /// fault is opening right now, and but for leaves whose stores are logged by D. **The set comes
    /// out first, then the entries are closed, then the table is stamped**; the guard says that
    /// settles and push-downs exclude each other.
    pub(crate) fn settle<E: Embedder>(
        &self,
        locked: &mut SpinGuard<'_, Locked>,
        generation: u64,
        context: Context<'_, E>,
    ) {
        let closed = match context.dirty_bits {
            DirtyBits::Scanned | DirtyBits::Logged if self.level() == Level::L1 => {
                self.settle_leaves(context)
            }
            _ => self.close_storable(context),
        };
        if closed == Closed::Now {
            locked.closed = Closed::Now;
        }
        locked.generation = generation;
        context.count(Event::Settled);
    }

    /// Of a table of 4 KiB leaves whose log is their D bits. Stores go on without a fault, once the
    /// entries above are open. What hardware has logged by itself is on record, and is logged again only
    /// from a clear D; what nobody has scanned yet stays to be scanned.
    fn settle_leaves<E: Embedder>(&self, context: Context<'_, E>) -> Closed {
        if context.dirty_bits == DirtyBits::Scanned {
            return Closed::Before;
        }
        let taken = self.writable.iter().map(|index| self.entry(index).take_dirty::<F>());
        count_closed(taken, context)
    }

    fn close_storable<E: Embedder>(&self, context: Context<'_, E>) -> Closed {
        if context.breaks.has(Break::ClearFirst) {
            return self.close_then_forget(context);
        }
        self.close(self.writable.take(), context)
    }

    /// The deliberate bug [`Break::ClearFirst`].
    #[cold]
    fn close_then_forget<E: Embedder>(&self, context: Context<'_, E>) -> Closed {
        let closed = self.close(self.writable.iter(), context);
        self.writable.take().for_each(drop);
        closed
    }

    /// Takes storability from entries, tables and leaves. Says whether one had it.
    fn close<E: Embedder>(
        &self,
        entries: impl Iterator<Item = usize>,
        context: Context<'_, E>,
    ) -> Closed {
        count_closed(entries.map(|index| self.entry(index).close::<F>()), context)
    }

    /// Lets stores through entry `index`, which points to `child`, after settling `child` for this
    /// table's own generation (W1: settled above, settled below).
    ///
    /// No shoot-down: a stale writable translation would need a writable path to have been walked
    /// since the root's shoot-down, and there was none
    /// ([`TableFormat::CACHED_ENTRIES_CARRY_PERMISSIONS`]).
    #[cold]
    pub(crate) fn push_down<E: Embedder>(
        &self,
        index: usize,
        child: &Self,
        context: Context<'_, E>,
    ) {
        let nothing_else = |_| ControlFlow::<Infallible>::Continue(());
        let _ = self.push_down_with(index, child, context, nothing_else);
    }

    /// The same, where more than `child` has to be settled for this table's generation before stores
    /// pass: `others` does so, under this table's lock, or says why they may not.
    #[cold]
    pub(crate) fn push_down_with<E: Embedder, B>(
        &self,
        index: usize,
        child: &Self,
        context: Context<'_, E>,
        others: impl Fn(u64) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        const { assert!(F::CACHED_ENTRIES_CARRY_PERMISSIONS) };
        if context.breaks.has(Break::SettleUnlocked) {
            self.push_down_unlocked(index, child, context);
            return ControlFlow::Continue(());
        }
        // The long part first, without this table's lock: its other children need not wait.
        let generation = self.lock(context).generation;
        if !context.breaks.has(Break::LateSettle) {
            child.catch_up(generation, context);
        }
        self.open_over(index, child, context, others)
    }

    /// Makes entry `index` storable, over a child that is settled by now, but for a
    /// write-protect-all that came meanwhile.
    fn open_over<E: Embedder, B>(
        &self,
        index: usize,
        child: &Self,
        context: Context<'_, E>,
        others: impl Fn(u64) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let parent = self.lock(context);
        if F::is_storable(self.entry(index).load()) {
            return ControlFlow::Continue(());
        }
        if context.breaks.has(Break::LateSettle) {
            self.open_table(index);
            context.hold_open();
        }
        child.catch_up(parent.generation, context);
        others(parent.generation)?;
        self.open_table(index);
        ControlFlow::Continue(())
    }

    /// The deliberate bug [`Break::ReadLifts`].
    #[cold]
    pub(crate) fn open_unsettled<E: Embedder>(&self, index: usize, context: Context<'_, E>) {
        let _locked = self.lock(context);
        self.open_table(index);
    }

    /// The deliberate bug [`Break::SettleUnlocked`].
    #[cold]
    fn push_down_unlocked<E: Embedder>(&self, index: usize, child: &Self, context: Context<'_, E>) {
        let generation = self.lock(context).generation;
        let stale = child.lock(context).generation != generation;
        if stale {
            child.close_storable(context);
            child.lock(context).generation = generation;
        }
        self.open_table(index);
    }

    /// Settles this table if it is older than `generation`, which the table above has or had.
    ///
    /// **Only if it is older.** Then the entry above has been closed since that generation began,
    /// and stays so as long as this table's lock is held. A table that is at this generation or a
    /// later one may be open above, its leaves storable and in TLBs: who comes late with an old
    /// number must not close them.
    pub(crate) fn catch_up<E: Embedder>(&self, generation: u64, context: Context<'_, E>) {
        self.catch_up_locked(&mut self.lock(context), generation, context);
    }

    /// The same, by who holds the table's lock.
    pub(crate) fn catch_up_locked<E: Embedder>(
        &self,
        locked: &mut SpinGuard<'_, Locked>,
        generation: u64,
        context: Context<'_, E>,
    ) {
        let behind = if context.breaks.has(Break::SettleBack) {
            locked.generation != generation
        } else {
            locked.generation < generation
        };
        if behind {
            self.settle(locked, generation, context);
        }
    }

    /// Makes an entry that points to a table storable; its own table's lock is held.
    pub(super) fn open_table(&self, index: usize) {
        self.entry(index).open::<F>();
        self.writable.insert(index);
    }
}

impl<F: Format> Table<F> {
    /// Makes the next store to each of those entries that are leaves heard of: by a fault, or, in
    /// tables of 4 KiB leaves, by D where hardware's D bits are the log. Says whether one could have
    /// been stored to unheard.
    pub(crate) fn rearm_leaves<E: Embedder>(
        &self,
        entries: impl Iterator<Item = usize>,
        context: Context<'_, E>,
    ) -> Closed {
        if context.dirty_bits == DirtyBits::Unused || self.level() > Level::L1 {
            return self.close_leaves(entries, context);
        }
        count_closed(entries.map(|index| self.entry(index).take_dirty::<F>()), context)
    }

    /// Takes storability from those entries that are leaves. Says whether one had it.
    fn close_leaves<E: Embedder>(
        &self,
        entries: impl Iterator<Item = usize>,
        context: Context<'_, E>,
    ) -> Closed {
        let level = self.level();
        count_closed(entries.map(|index| self.entry(index).close_leaf::<F>(level)), context)
    }
}

fn count_closed<E: Embedder>(
    closed: impl Iterator<Item = Closed>,
    context: Context<'_, E>,
) -> Closed {
    let now = closed.filter(|closed| *closed == Closed::Now).count();
    context.count_many(Event::Closed, now as u64);
    if now == 0 { Closed::Before } else { Closed::Now }
}
