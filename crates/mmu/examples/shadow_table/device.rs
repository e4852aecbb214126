//! The device's model: a shadow of a two-level table.
//!
//! What makes it right:
//!
//! - **Listen, then track, then read.** From the moment a page is tracked every write to it is told; what
//!   was written before is read. A write in between is both, which does no harm.
//! - **What is told says where; what is there is read again, under the shadow's own lock.** Two writes to
//!   one entry are told in either order. Whoever reads last reads the last value. So the bytes of the
//!   call are not used at all, and a write of half an entry needs no thought.
//! - **Filter.** All writes that no vCPU makes directly are told, whoever tracks what.
//! - **A table is tracked while it is used**, once however often, and untracked with its last user: a page
//!   that is tracked for nothing costs the guest an exit a store. Both is done from inside of the call.
//! - **What a memslot's removal takes is not untracked**: its counts have gone with it.

use super::Failure;
use super::hypervisor::{Host, SPACE, Vm};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vellum_mmu::{
    Call, Mmu, Registration, RemovedRegion, TrackError, TrackMode, WriteListener, Written,
};
use vellum_pte::{Ept, Gfn, PAGE_SHIFT, PAGE_SIZE, Pfn};

/// Entries of a directory or a table.
pub(crate) const ENTRIES: u64 = PAGE_SIZE / ENTRY_BYTES;
const ENTRY_BYTES: u64 = 8;
/// An entry that counts. The guest frame is in the bits from 12 on.
pub(crate) const VALID: u64 = 1;

/// The guest frame that an entry names.
const fn named(entry: u64) -> Option<Gfn> {
    if entry & VALID != 0 { Some(Gfn::new(entry >> PAGE_SHIFT)) } else { None }
}

/// What the real device is given for a page of its own.
#[derive(Clone, Copy)]
struct Mapping {
    /// What the guest says: to find it again when that memory goes.
    guest: Gfn,
    host: Pfn,
}

/// How many writes the listener was told of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Told {
    pub(crate) all: u64,
    /// Those that the filter let through.
    pub(crate) ours: u64,
}

#[derive(Default)]
struct Tables {
    /// The directory's entries that are shadowed, and the table that each names.
    directory: BTreeMap<u64, Gfn>,
    /// Which directory entries use a table. Each table here is tracked, once.
    users: BTreeMap<Gfn, BTreeSet<u64>>,
    /// By the device's page number.
    shadow: BTreeMap<u64, Mapping>,
    told: Told,
}

/// The shadow of the table below one directory.
pub(crate) struct Shadow {
    root: Gfn,
    tables: Mutex<Tables>,
}

impl Shadow {
    /// Begins to shadow.
    pub(crate) fn attach(
        mmu: &Arc<Vm>,
        root: Gfn,
    ) -> Result<(Arc<Self>, Registration<Arc<Vm>>), Failure> {
        let shadow = Arc::new(Self { root, tables: Mutex::default() });
        let listener: Arc<Self> = Arc::clone(&shadow);
        let registration = Mmu::listen(Arc::clone(mmu), listener)?;
        mmu.track(SPACE, root, TrackMode::Write)?;
        shadow.refresh(mmu);
        Ok((shadow, registration))
    }

    /// Reads everything again: after memory was added, entries that named nothing may name it.
    pub(crate) fn refresh(&self, mmu: &Vm) {
        let mut tables = self.lock();
        tables.follow_all(mmu, self.root, 0..=ENTRIES - 1);
        for table in tables.users.keys().copied().collect::<Vec<_>>() {
            tables.read_again(mmu, table, 0..=ENTRIES - 1);
        }
    }

    /// Tracks nothing any more. Writes that are told from now on find nothing to do, if the
    /// registration ends before the guest writes to the directory again.
    pub(crate) fn detach(&self, mmu: &Vm) {
        let mut tables = self.lock();
        for (index, table) in tables.directory.clone() {
            tables.leave(mmu, index, table);
        }
        drop(tables);
        let untracked = mmu.untrack(SPACE, self.root, TrackMode::Write);
        debug_assert!(matches!(untracked, Ok(()) | Err(TrackError::NoSlot(_))));
    }

    /// What the device is given, by its page number.
    pub(crate) fn entries(&self) -> BTreeMap<u64, Pfn> {
        self.lock().shadow.iter().map(|(page, mapping)| (*page, mapping.host)).collect()
    }

    /// How many tables are tracked.
    pub(crate) fn tables(&self) -> usize {
        self.lock().users.len()
    }

    /// How many writes it was told of.
    pub(crate) fn told(&self) -> Told {
        self.lock().told
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteListener<Ept, Host> for Shadow {
    fn write(&self, call: &Call<'_, Ept, Host>, written: &Written<'_>) {
        if written.space != SPACE {
            return;
        }
        let mut tables = self.lock();
        tables.told.all += 1;
        let mut ours = false;
        for (page, entries) in touched(written) {
            if page == self.root {
                ours = true;
                tables.follow_all(call.mmu(), self.root, entries.clone());
            }
            // A page may be a table, the directory, or both.
            ours |= tables.users.contains_key(&page);
            tables.read_again(call.mmu(), page, entries);
        }
        tables.told.ours += u64::from(ours);
    }

    fn region_removed(&self, call: &Call<'_, Ept, Host>, removed: &RemovedRegion) {
        let gone = |gfn: &Gfn| removed.space == SPACE && removed.range.contains(*gfn);
        let mut tables = self.lock();
        for (index, table) in tables.directory.clone() {
            if gone(&table) {
                // Its count has gone with its memslot: nothing is untracked.
                tables.forget(index, table);
            } else if gone(&self.root) {
                tables.leave(call.mmu(), index, table);
            }
        }
        // What the device was given of that memory must not be used any more.
        tables.shadow.retain(|_, mapping| !gone(&mapping.guest));
    }
}

/// The pages that a write has touched, and in each the entries: all of those of which it has a part.
fn touched(written: &Written<'_>) -> impl Iterator<Item = (Gfn, RangeInclusive<u64>)> {
    let first = written.gpa.get();
    let last = first + written.bytes.len() as u64 - 1;
    (first >> PAGE_SHIFT..=last >> PAGE_SHIFT).map(move |page| {
        let start = page << PAGE_SHIFT;
        let (from, to) = (first.max(start) - start, last.min(start + PAGE_SIZE - 1) - start);
        (Gfn::new(page), from / ENTRY_BYTES..=to / ENTRY_BYTES)
    })
}

impl Tables {
    /// Looks at some of the directory's entries again.
    fn follow_all(&mut self, mmu: &Vm, root: Gfn, entries: RangeInclusive<u64>) {
        entries.for_each(|index| self.follow(mmu, root, index));
    }

    /// Makes a directory entry's table the one that it names now.
    fn follow(&mut self, mmu: &Vm, root: Gfn, index: u64) {
        let host = mmu.embedder();
        let now = named(host.entry(root, index)).filter(|table| host.frame(*table).is_some());
        let before = self.directory.get(&index).copied();
        if now == before {
            return;
        }
        if let Some(table) = before {
            self.leave(mmu, index, table);
        }
        if let Some(table) = now {
            self.enter(mmu, index, table);
        }
    }

    /// One more directory entry names a table.
    fn enter(&mut self, mmu: &Vm, index: u64, table: Gfn) {
        let is_tracked = self.users.contains_key(&table);
        if !is_tracked && mmu.track(SPACE, table, TrackMode::Write).is_err() {
            // No memory, or its memslot is going. What cannot be followed is not shadowed: the device
            // faults there, and the next write to the entry tries again.
            return;
        }
        self.directory.insert(index, table);
        self.users.entry(table).or_default().insert(index);
        // Now that it is tracked, and not before.
        (0..ENTRIES).for_each(|entry| self.read(mmu, index, table, entry));
    }

    /// A directory entry names its table no more.
    fn leave(&mut self, mmu: &Vm, index: u64, table: Gfn) {
        self.forget(index, table);
        if !self.users.contains_key(&table) {
            // Where its memslot has just gone, so has its count; `region_removed` is on its way.
            let untracked = mmu.untrack(SPACE, table, TrackMode::Write);
            debug_assert!(matches!(untracked, Ok(()) | Err(TrackError::NoSlot(_))));
        }
    }

    fn forget(&mut self, index: u64, table: Gfn) {
        self.directory.remove(&index);
        self.shadow.retain(|page, _| page / ENTRIES != index);
        if let Some(users) = self.users.get_mut(&table) {
            users.remove(&index);
            if users.is_empty() {
                self.users.remove(&table);
            }
        }
    }

    /// Looks at some entries of a page again, for each directory entry that uses it as its table.
    fn read_again(&mut self, mmu: &Vm, table: Gfn, entries: RangeInclusive<u64>) {
        for index in self.users.get(&table).cloned().unwrap_or_default() {
            entries.clone().for_each(|entry| self.read(mmu, index, table, entry));
        }
    }

    /// Makes one entry of the shadow what it should be.
    fn read(&mut self, mmu: &Vm, index: u64, table: Gfn, entry: u64) {
        let page = index * ENTRIES + entry;
        match mapping(mmu.embedder(), table, entry) {
            Some(mapping) => self.shadow.insert(page, mapping),
            None => self.shadow.remove(&page),
        };
    }
}

fn mapping(host: &Host, table: Gfn, entry: u64) -> Option<Mapping> {
    let guest = named(host.entry(table, entry))?;
    Some(Mapping { guest, host: host.frame(guest)? })
}

/// The same without any history.
pub(crate) fn from_scratch(host: &Host, root: Gfn) -> BTreeMap<u64, Pfn> {
    let mut built = BTreeMap::new();
    for index in 0..ENTRIES {
        let table = named(host.entry(root, index)).filter(|table| host.frame(*table).is_some());
        for (entry, table) in (0..ENTRIES).zip(std::iter::repeat(table)) {
            let found = table.and_then(|table| mapping(host, table, entry));
            built.extend(found.map(|mapping| (index * ENTRIES + entry, mapping.host)));
        }
    }
    built
}
