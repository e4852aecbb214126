//! Table frames that can be looked at from outside.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::Frame;
use vellum_pte::{Format, Pfn, Raw};

const ENTRIES: usize = 512;
/// As many root tables as any format has side by side.
const MOST_ROOTS: u32 = 16;

/// A table as hardware wants it.
#[derive(Debug)]
#[repr(align(4096))]
struct TablePage([AtomicU64; ENTRIES]);

impl TablePage {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }
}

/// As many tables side by side as any format wants, aligned to their size together.
#[derive(Debug)]
#[repr(align(65536))]
struct Roots([TablePage; MOST_ROOTS as usize]);

/// What was handed out at once.
#[derive(Debug)]
enum Loan {
    Table(Box<TablePage>),
    Roots(Box<Roots>, u32),
}

impl Loan {
    fn new(tables: u32) -> Self {
        match tables {
            1 => Self::Table(Box::new(TablePage::new())),
            _ => {
                let pages = [const { TablePage::new() }; MOST_ROOTS as usize];
                Self::Roots(Box::new(Roots(pages)), tables)
            }
        }
    }

    fn tables(&self) -> &[TablePage] {
        match self {
            Self::Table(page) => std::slice::from_ref(page),
            Self::Roots(roots, tables) => &roots.0[..*tables as usize],
        }
    }
}

/// What every table frame held at one moment.
pub type Snapshot = BTreeMap<Pfn, Vec<Raw>>;

/// The frames that are handed out.
#[derive(Debug, Default)]
pub(super) struct Bank {
    loans: BTreeMap<Pfn, Loan>,
    /// Frames are numbered as they are handed out, far from the guest's; by sixteens, so that roots
    /// are aligned.
    issued: u64,
}

impl Bank {
    const FIRST: u64 = 1 << 35;

    pub(super) fn allocate(&mut self, tables: u32) -> Frame {
        assert!(tables.is_power_of_two() && tables <= MOST_ROOTS, "{tables} roots");
        let pfn = Pfn::new(Self::FIRST + self.issued * u64::from(MOST_ROOTS));
        self.issued += 1;
        let loan = Loan::new(tables);
        let entries = NonNull::from(loan.tables()).cast();
        self.loans.insert(pfn, loan);
        // SAFETY: T2: 512 zeroed entries a table, aligned to the tables' size together, in a box
        // that stays in `loans` until the frame is released. T1: everybody accesses them as atomics.
        unsafe { Frame::from_raw(pfn, entries) }
    }

    pub(super) fn release(&mut self, first: &Frame, tables: u32) {
        let loan = self.loans.remove(&first.pfn());
        let given = loan.map(|loan| loan.tables().len());
        assert_eq!(given, Some(tables as usize), "what comes back at {first:?}");
    }

    pub(super) fn live(&self) -> usize {
        self.loans.values().map(|loan| loan.tables().len()).sum()
    }

    /// # Panics
    /// The table was released: nobody may be on the way to it any more.
    pub(super) fn entry(&self, table: Pfn, index: usize) -> &AtomicU64 {
        let (first, loan) = self.loans.range(..=table).next_back().expect("no table is so low");
        let place = usize::try_from(table.get() - first.get()).expect("few");
        let page = loan.tables().get(place);
        &page.unwrap_or_else(|| panic!("{table} is a table that was released")).0[index]
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let words = |page: &TablePage| {
            page.0.iter().map(|entry| Raw(entry.load(Ordering::Acquire))).collect()
        };
        let tables = self.loans.iter().flat_map(|(first, loan)| {
            (first.get()..).map(Pfn::new).zip(loan.tables().iter().map(words))
        });
        tables.collect()
    }
}

/// A VM that goes away gives every frame back.
impl Drop for Bank {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.loans.is_empty(), "{} frames were kept", self.live());
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
