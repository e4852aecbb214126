//! Table frames that can be looked at from outside.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::Frame;
use vellum_pte::{Format, Pfn, Raw};

const ENTRIES: usize = 512;

/// A table as hardware wants it.
#[derive(Debug)]
#[repr(align(4096))]
struct TablePage([AtomicU64; ENTRIES]);

/// What every table frame held at one moment.
pub type Snapshot = BTreeMap<Pfn, Vec<Raw>>;

/// The frames that are handed out.
#[derive(Debug, Default)]
pub(super) struct Bank {
    pages: BTreeMap<Pfn, Box<TablePage>>,
    /// Frames are numbered as they are handed out, far from the guest's.
    issued: u64,
}

impl Bank {
    const FIRST: u64 = 1 << 36;

    pub(super) fn allocate(&mut self) -> Frame {
        let pfn = Pfn::new(Self::FIRST + self.issued);
        self.issued += 1;
        let page = Box::new(TablePage([const { AtomicU64::new(0) }; ENTRIES]));
        let entries = NonNull::from(&page.0).cast();
        self.pages.insert(pfn, page);
        // SAFETY: T2: 512 zeroed entries, aligned to the page, in a box that stays in `pages` until
        // the frame is released. T1: everybody accesses them as atomics.
        unsafe { Frame::from_raw(pfn, entries) }
    }

    pub(super) fn release(&mut self, frame: &Frame) {
        let page = self.pages.remove(&frame.pfn());
        assert!(page.is_some(), "a frame was released that is not handed out: {frame:?}");
    }

    pub(super) fn live(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn entry(&self, table: Pfn, index: usize) -> Option<Raw> {
        let page = self.pages.get(&table)?;
        Some(Raw(page.0[index].load(Ordering::Acquire)))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let words = |page: &TablePage| {
            page.0.iter().map(|entry| Raw(entry.load(Ordering::Acquire))).collect()
        };
        self.pages.iter().map(|(pfn, page)| (*pfn, words(page))).collect()
    }
}

/// A VM that goes away gives every frame back.
impl Drop for Bank {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.pages.is_empty(), "{} frames were kept", self.pages.len());
        }
    }
}

/// Which entries differ, by table, after nothing else happened than taking stores away: `None` if
/// anything else did.
#[must_use]
pub fn changed_entries<F: Format>(
    before: &Snapshot,
    after: &Snapshot,
) -> Option<BTreeMap<Pfn, usize>> {
    if !before.keys().eq(after.keys()) {
        return None;
    }
    let mut changed = BTreeMap::new();
    for ((table, old), new) in before.iter().zip(after.values()) {
        let differ = |pair: &(&Raw, &Raw)| pair.0 != pair.1;
        let pairs: Vec<_> = old.iter().zip(new).filter(differ).collect();
        if !pairs.iter().all(|(old, new)| F::close(**old) == **new) {
            return None;
        }
        if !pairs.is_empty() {
            changed.insert(*table, pairs.len());
        }
    }
    Some(changed)
}
