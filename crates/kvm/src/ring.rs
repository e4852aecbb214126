//! Dirty rings: read in order, given back, never believed.

mod mapping;

use crate::calls::{PATIENCE, Vm, again};
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
    /// Entries ever read, running freely: where to read on follows from nothing else.
    next: usize,
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
    /// The rings are as full as they were, or cannot be believed. In either case the next round says
    /// so, and then names every page.
    pub fn reap(&self) -> Result<(), KvmError> {
        let mut shared = self.0.lock();
        self.0.harvest(&mut shared)?;
        self.0.reset(&mut shared)
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
        self.lock().rings.push(Ring { mapping, next: 0 });
        Ok(())
    }

    /// Adds to `round` what the rings hold, and what was reaped. The pages are not protected yet.
    pub(crate) fn collect(&self, round: &mut PageSet) -> Result<(), KvmError> {
        let mut shared = self.lock();
        self.harvest(&mut shared)?;
        if let Some(fault) = shared.fault.take() {
            return Err(fault.into());
        }
        round.merge(&shared.reaped);
        shared.reaped.clear();
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

    /// Empties the rings, and forgets what was in them.
    pub(crate) fn forget(&self) -> Result<(), KvmError> {
        let mut shared = self.lock();
        let harvested = self.harvest(&mut shared);
        shared.reaped.clear();
        shared.fault = None;
        match harvested {
            // An entry that leads nowhere is no harm here.
            Ok(()) | Err(KvmError::Ring(RingFault::Astray { .. })) => self.reset(&mut shared),
            other => other,
        }
    }

    /// Reads all rings to their ends. An entry that leads astray does not keep the rest from being
    /// read: it would stay in the way.
    fn harvest(&self, shared: &mut Shared) -> Result<(), KvmError> {
        let Shared { rings, reaped, marked, fault } = shared;
        let mut astray = None;
        for ring in rings {
            *marked += ring.harvest(|slot, offset| match self.find(slot, offset) {
                Some(region) => reaped.regions_mut()[region].insert(offset),
                None => astray = Some(RingFault::Astray { slot, offset }),
            });
        }
        match astray {
            None => Ok(()),
            Some(found) => Err(fault.insert(found).to_owned().into()),
        }
    }

    /// Which region an entry names, if it names a page of one.
    fn find(&self, slot: u32, offset: u64) -> Option<usize> {
        let named = |&(number, pages): &(u32, u64)| number == slot && offset < pages;
        self.slots.iter().position(named)
    }

    /// Has the kernel take back what is marked. A signal ends its call early, so it is called until
    /// it has taken all.
    fn reset(&self, shared: &mut Shared) -> Result<(), KvmError> {
        let harvested = shared.marked;
        let mut taken_back = 0;
        let mut idle = 0;
        while taken_back < harvested && idle < PATIENCE {
            let taken = again(|| self.vm.reset_dirty_rings())
                .map_err(|source| KvmError::Vm { call: Call::ResetDirtyRings, source })?;
            taken_back += u64::from(taken);
            shared.marked = harvested.saturating_sub(taken_back);
            idle = if taken == 0 { idle + 1 } else { 0 };
        }
        if taken_back == harvested {
            return Ok(());
        }
        shared.marked = 0;
        Err(shared.fault.insert(RingFault::Miscounted { harvested, taken_back }).to_owned().into())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // What a thread that panicked has left is whole: indices move after what they stand for.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Hands every dirty entry to `found`, in order, and marks it. Says how many: at most as many as
    /// the ring has, whatever is written there meanwhile.
    fn harvest(&mut self, mut found: impl FnMut(u32, u64)) -> u64 {
        let entries = self.mapping.entries();
        let mut taken = 0;
        for _ in 0..entries.len() {
            let Some((slot, offset)) = take(&entries[self.next % entries.len()]) else { break };
            found(slot, offset);
            self.next = self.next.wrapping_add(1);
            taken += 1;
        }
        taken
    }
}

/// Copies a dirty entry and marks it: what comes after is not read before its flag was seen, and the
/// kernel does not see the mark before it was read.
fn take(entry: &Entry) -> Option<(u32, u64)> {
    if entry.flags.load(Ordering::Acquire) & DIRTY == 0 {
        return None;
    }
    let named = (entry.slot.load(Ordering::Relaxed), entry.offset.load(Ordering::Relaxed));
    entry.flags.store(HARVESTED, Ordering::Release);
    Some(named)
}
