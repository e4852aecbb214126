//! An embedder whose frames are counted and checked when they come back.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Level, Pfn};

/// Frames that are out, and those that some processor may still remember: linked once, and no
/// shoot-down since.
#[derive(Default)]
struct Ledger {
    out: BTreeSet<u64>,
    remembered: BTreeSet<u64>,
    /// How many more there are, if not any number.
    left: Option<usize>,
    /// The largest leaf that its memory allows.
    largest: Option<Level>,
    /// Added to a guest frame number to get the host's.
    offset: u64,
    shoot_downs: usize,
    /// Addresses that hardware has logged and nobody has asked for.
    logged: Vec<u64>,
    /// What it logs just after it was asked.
    logged_then: Vec<u64>,
    /// What some other CPU does when a shoot-down has been asked for and not yet been made.
    meanwhile: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Ledger {
    fn spend(&mut self) -> Option<()> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        Some(())
    }
}

/// Demands that a frame come back after a shoot-down, whatever it was.
#[derive(Clone, Default)]
pub(crate) struct Lender(Arc<Mutex<Ledger>>);

impl Lender {
    pub(crate) fn out(&self) -> usize {
        self.0.lock().expect("no panics inside").out.len()
    }

    pub(crate) fn set_left(&self, left: Option<usize>) {
        self.0.lock().expect("no panics inside").left = left;
    }

    /// From now on its memory allows leaves of this size, at frames so far from the guest's.
    pub(crate) fn set_memory(&self, largest: Level, offset: u64) {
        let mut ledger = self.0.lock().expect("no panics inside");
        (ledger.largest, ledger.offset) = (Some(largest), offset);
    }

    /// From now on another CPU does this before each shoot-down reaches it.
    pub(crate) fn before_shoot_down(&self, meanwhile: impl Fn() + Send + Sync + 'static) {
        self.0.lock().expect("no panics inside").meanwhile = Some(Arc::new(meanwhile));
    }

    pub(crate) fn shoot_downs(&self) -> usize {
        self.0.lock().expect("no panics inside").shoot_downs
    }

    /// A processor logs that it has set D for an address.
    pub(crate) fn log(&self, address: u64) {
        self.0.lock().expect("no panics inside").logged.push(address);
    }

    /// A processor logs an address just after it was asked next.
    pub(crate) fn log_after_asking(&self, address: u64) {
        self.0.lock().expect("no panics inside").logged_then.push(address);
    }

    /// What was logged since it was last taken.
    pub(crate) fn take_logged(&self) -> Vec<u64> {
        let mut ledger = self.0.lock().expect("no panics inside");
        let then = std::mem::take(&mut ledger.logged_then);
        std::mem::replace(&mut ledger.logged, then)
    }

    /// A processor has walked all tables there are.
    pub(crate) fn walk(&self) {
        let mut ledger = self.0.lock().expect("no panics inside");
        ledger.remembered = ledger.out.clone();
    }
}

/// As hardware wants it.
#[repr(align(4096))]
struct Table([EntryWord; 512]);

impl Table {
    const fn empty() -> Self {
        Self([const { EntryWord::new(0) }; 512])
    }
}

impl Embedder for Lender {
    fn allocate_frame(&self) -> Option<Frame> {
        let table = Box::leak(Box::new(Table::empty()));
        let entries = NonNull::new(table.0.as_mut_ptr())?;
        let pfn = Pfn::of_address(entries.as_ptr() as u64);
        let mut ledger = self.0.lock().expect("no panics inside");
        ledger.spend()?;
        ledger.out.insert(pfn.get());
        drop(ledger);
        // SAFETY: 512 zeroed entries, leaked, and nobody else's. No processor walks them here.
        Some(unsafe { Frame::from_raw(pfn, entries) })
    }

    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        let tables: Vec<_> = (0..tables).map(|_| Table::empty()).collect();
        let entries = NonNull::new(tables.leak().as_mut_ptr())?.cast();
        let pfn = Pfn::of_address(entries.as_ptr() as u64);
        let mut ledger = self.0.lock().expect("no panics inside");
        ledger.spend()?;
        ledger.out.insert(pfn.get());
        drop(ledger);
        // SAFETY: so many tables of zeroed entries, leaked, and nobody else's.
        Some(unsafe { Frame::from_raw(pfn, entries) })
    }

    fn release_roots(&self, first: Frame, _: u32) {
        self.release_frame(first);
    }

    fn release_frame(&self, frame: Frame) {
        let mut ledger = self.0.lock().expect("no panics inside");
        assert!(ledger.out.remove(&frame.pfn().get()), "a frame comes back once");
        assert!(!ledger.remembered.contains(&frame.pfn().get()), "released before a shoot-down");
    }

    fn shoot_down(&self, _: Scope) {
        let meanwhile = self.0.lock().expect("no panics inside").meanwhile.take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let mut ledger = self.0.lock().expect("no panics inside");
        ledger.shoot_downs += 1;
        ledger.remembered.clear();
    }

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let ledger = self.0.lock().expect("no panics inside");
        let frame = Pfn::new(page.memory.0 + page.index + ledger.offset);
        let largest = ledger.largest.unwrap_or(Level::L1);
        Some(Backing { frame, write: BackingWrite::Allowed, largest })
    }

    fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> {
        Ok(())
    }

    fn drain_logs(&self, log: &mut dyn FnMut(AddressSpace, u64)) {
        self.take_logged().into_iter().for_each(|address| log(AddressSpace::NORMAL, address));
    }
}
