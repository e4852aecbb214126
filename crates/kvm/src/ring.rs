//! Dirty rings: read in order, given back, never believed.

mod mapping;

use crate::calls::{PATIENCE, Vm, again, undisturbed};
use crate::error::{Call, KvmError, RingFault};
use crate::slot::Memslot;
use core::sync::atomic::Ordering;
use kvm_ioctls::VcpuFd;
use mapping::{Entry, Mapping};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vellum_memory::{Layout, PageSet};

/// Flag of an entry that the vCPU has written, `KVM_DIRTY_GFN_F_DIRTY`.
const DIRTY: u32 = 1;
/// Flag of an entry that we have copied, `KVM_DIRTY_GFN_F_RESET`.
const HARVESTED: u32 = 2;

/// One vCPU's ring, as far as it is read.
struct Ring {
    mapping: Mapping,
    /// Where to read on: it follows from how many were read, and from nothing that is in the ring.
    next: usize,
    place: Place,
}

/// Whether the kernel is where a ring's reader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// It is: an entry that is not dirty is the end.
    Kept,
    /// It took back more or fewer entries than were marked, so it may be ahead: the ring is searched
    /// for its next entry.
    Lost,
}

/// The rings of a VM, shared by who collects and by vCPUs whose ring is full.
pub(crate) struct Rings {
    vm: Arc<Vm>,
    /// KVM's number of each region's slot, and its pages.
    slots: Vec<(u32, u64)>,
    shared: Mutex<Shared>,
}

struct Shared {
    rings: Vec<Ring>,
    /// Pages that were read and are in no round yet.
    reaped: PageSet,
    /// Entries that are marked, and that the kernel has not taken back.
    marked: u64,
    /// What was found out, for who collects next.
    fault: Option<RingFault>,
}

/// Empties rings between two rounds: for the thread of a vCPU that left the guest with
/// `KVM_EXIT_DIRTY_RING_FULL` (31). What it finds is in the next round.
#[derive(Clone)]
pub struct Reaper(Arc<Rings>);

impl Reaper {
    /// Makes room in all rings, so that the vCPU may enter the guest again.
    ///
    /// # Errors
    /// The kernel did not take the entries back, and the rings are as full as they were; or they cannot
    /// be believed: then the next [`collect`](vellum_memory::DirtySource::collect) says so too, and
    /// owes every page.
    pub fn reap(&self) -> Result<(), KvmError> {
        let mut shared = self.0.lock();
        let harvested = self.0.reap(&mut shared);
        harvested.and(self.0.reset(&mut shared))
    }
}

impl Shared {
    /// Remembers a fault for who collects next.
    fn failed(&mut self, fault: RingFault) -> KvmError {
        self.fault = Some(fault);
        fault.into()
    }
}

impl Rings {
    pub(crate) fn new(vm: Arc<Vm>, slots: &[Memslot], layout: &Layout) -> Self {
        let slots = slots.iter().map(|slot| (slot.number(), slot.region().range.pages())).collect();
        let reaped = PageSet::new(layout);
        let shared = Shared { rings: Vec::new(), reaped, marked: 0, fault: None };
        Self { vm, slots, shared: Mutex::new(shared) }
    }

    pub(crate) fn reaper(self: &Arc<Self>) -> Reaper {
        Reaper(Arc::clone(self))
    }

    /// Maps the ring of one more vCPU.
    pub(crate) fn add(&self, vcpu: &VcpuFd, entries: u32) -> Result<(), KvmError> {
        let mapping = Mapping::of(vcpu, entries)
            .map_err(|source| KvmError::Vm { call: Call::MapRing, source })?;
        self.lock().rings.push(Ring::new(mapping));
        Ok(())
    }

    /// Adds to `round` what the rings hold, and what was reaped. The pages are not protected yet. After
    /// an error `round` has what was read.
    pub(crate) fn collect(&self, round: &mut PageSet) -> Result<(), KvmError> {
        let mut shared = self.lock();
        let Shared { rings, reaped, marked, fault } = &mut *shared;
        let harvested = self.harvest(rings, marked, round);
        // Of a fault that a reaper has found the consumer hears now, and once.
        let found = fault.take();
        harvested?;
        found.map_or(Ok(()), Err)?;
        round.merge(reaped);
        reaped.clear();
        Ok(())
    }

    /// Protects all pages that were harvested.
    pub(crate) fn protect(&self) -> Result<(), KvmError> {
        let mut shared = self.lock();
        let reset = self.reset(&mut shared);
        // The caller hears of it now.
        shared.fault = None;
        reset
    }

    /// Empties the rings of a VM that logs nothing, and forgets what was in them. A fault of theirs
    /// does no harm: what a log needs protected is protected when it starts.
    pub(crate) fn forget(&self) -> Result<(), KvmError> {
        let mut shared = self.lock();
        let harvested = self.reap(&mut shared);
        let emptied = harvested.and(self.reset(&mut shared));
        shared.reaped.clear();
        shared.fault = None;
        match emptied {
            Err(KvmError::Ring(_)) => Ok(()),
            other => other,
        }
    }

    /// Reads all rings, for who collects later.
    fn reap(&self, shared: &mut Shared) -> Result<(), KvmError> {
        let Shared { rings, reaped, marked, .. } = shared;
        let harvested = self.harvest(rings, marked, reaped);
        harvested.map_err(|found| shared.failed(found))
    }

    /// Reads all rings to their ends. An entry that leads astray does not keep the rest from being
    /// read: it would stay in the way.
    fn harvest(
        &self,
        rings: &mut [Ring],
        marked: &mut u64,
        into: &mut PageSet,
    ) -> Result<(), RingFault> {
        let mut astray = None;
        for ring in rings {
            *marked += ring.harvest(|slot, offset| match self.find(slot, offset) {
                Some(region) => into.regions_mut()[region].insert(offset),
                None => astray = Some(RingFault::Astray { slot, offset }),
            });
        }
        astray.map_or(Ok(()), Err)
    }

    /// Which region an entry names, if it names a page of one.
    fn find(&self, slot: u32, offset: u64) -> Option<usize> {
        let named = |&(number, pages): &(u32, u64)| number == slot && offset < pages;
        self.slots.iter().position(named)
    }

    /// Has the kernel take back what is marked, and protect it.
    ///
    /// New kernels (6.18 for one) stop at a signal, and then have taken back entries without having
    /// protected their pages. So signals are kept away, and if one came all the same (not all can be),
    /// the rings have failed.
    fn reset(&self, shared: &mut Shared) -> Result<(), KvmError> {
        let harvested = shared.marked;
        let (mut taken_back, mut calls, mut idle) = (0, 0, 0);
        while taken_back < harvested && idle < PATIENCE {
            let taken = self.reset_once()?;
            taken_back += taken;
            calls += 1;
            shared.marked = harvested.saturating_sub(taken_back);
            idle = if taken == 0 { idle + 1 } else { 0 };
        }
        if taken_back != harvested {
            shared.marked = 0;
            shared.rings.iter_mut().for_each(|ring| ring.place = Place::Lost);
            return Err(shared.failed(RingFault::Miscounted { harvested, taken_back }));
        }
        if calls > 1 { Err(shared.failed(RingFault::Interrupted)) } else { Ok(()) }
    }

    fn reset_once(&self) -> Result<u64, KvmError> {
        let taken = undisturbed(|| again(|| self.vm.reset_dirty_rings())).flatten();
        taken.map(u64::from).map_err(|source| KvmError::Vm { call: Call::ResetDirtyRings, source })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // What a thread that panicked has left is whole: indices move after what they stand for.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn new(mapping: Mapping) -> Self {
        Self { mapping, next: 0, place: Place::Kept }
    }

    /// Hands every dirty entry to `found`, in order, and marks it. Says how many: at most as many as
    /// the ring has, whatever is written there meanwhile.
    fn harvest(&mut self, mut found: impl FnMut(u32, u64)) -> u64 {
        if self.place == Place::Lost {
            self.seek();
        }
        let entries = self.mapping.entries();
        let mut taken = 0;
        for _ in 0..entries.len() {
            let Some((slot, offset)) = take(&entries[self.next]) else { break };
            found(slot, offset);
            self.next = (self.next + 1) % entries.len();
            taken += 1;
        }
        taken
    }

    /// Goes on to the next dirty entry, wherever it is.
    fn seek(&mut self) {
        let entries = self.mapping.entries();
        let dirty = |ahead: &usize| is_dirty(&entries[(self.next + ahead) % entries.len()]);
        let ahead = (0..entries.len()).find(dirty).unwrap_or(0);
        self.next = (self.next + ahead) % entries.len();
    }
}

fn is_dirty(entry: &Entry) -> bool {
    entry.flags.load(Ordering::Acquire) & DIRTY != 0
}

/// Copies a dirty entry and marks it: what comes after is not read before its flag was seen, and the
/// kernel does not see the mark before it was read.
fn take(entry: &Entry) -> Option<(u32, u64)> {
    if !is_dirty(entry) {
        return None;
    }
    let named = (entry.slot.load(Ordering::Relaxed), entry.offset.load(Ordering::Relaxed));
    entry.flags.store(HARVESTED, Ordering::Release);
    Some(named)
}

#[cfg(test)]
mod tests;
