//! What guest memory holds, by where it is.

use crate::hypervisor::{Change, Home};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use vellum_memory::guest::{PAGE_BYTES, Page};
use vellum_pte::PAGE_SIZE;

/// Bytes, zero where they were never written, and which pages are not there or not writable.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    bytes: BTreeMap<u64, u8>,
    withheld: BTreeSet<Home>,
    sealed: BTreeSet<Home>,
}

impl Contents {
    /// Whether anything is behind a page.
    #[must_use]
    pub fn is_there(&self, home: Home) -> bool {
        !self.withheld.contains(&home)
    }

    /// Whether something writable is.
    #[must_use]
    pub fn is_writable(&self, home: Home) -> bool {
        self.is_there(home) && !self.sealed.contains(&home)
    }

    /// Writes a byte.
    pub fn put(&mut self, home: Home, offset: u64, byte: u8) {
        self.bytes.insert(home.0 * PAGE_SIZE + offset, byte);
    }

    /// Eight bytes.
    #[must_use]
    pub fn word(&self, home: Home, offset: u64) -> u64 {
        let at = home.0 * PAGE_SIZE + offset;
        let byte = |index| self.bytes.get(&(at + index)).copied().unwrap_or(0);
        u64::from_le_bytes(std::array::from_fn(|index| byte(index as u64)))
    }

    /// A page.
    #[must_use]
    pub fn page(&self, home: Home) -> Page {
        let mut page = [0; PAGE_BYTES];
        let first = home.0 * PAGE_SIZE;
        for (at, byte) in self.bytes.range(first..first + PAGE_SIZE) {
            page[usize::try_from(at - first).expect("in the page")] = *byte;
        }
        page
    }

    /// The pages that hold something.
    #[must_use]
    pub fn written(&self) -> BTreeSet<Home> {
        self.bytes.keys().map(|at| Home(at / PAGE_SIZE)).collect()
    }

    /// Does to some pages what the host does.
    pub fn change(&mut self, homes: Range<Home>, change: Change) {
        for home in (homes.start.0..homes.end.0).map(Home) {
            match change {
                Change::Nothing => {}
                Change::Migrate => self.renew(home),
                Change::Discard => {
                    self.renew(home);
                    self.empty(home);
                }
                Change::Withhold => {
                    self.renew(home);
                    self.empty(home);
                    self.withheld.insert(home);
                }
                Change::Seal => {
                    self.renew(home);
                    self.sealed.insert(home);
                }
            }
        }
    }

    fn renew(&mut self, home: Home) {
        self.withheld.remove(&home);
        self.sealed.remove(&home);
    }

    fn empty(&mut self, home: Home) {
        let first = home.0 * PAGE_SIZE;
        self.bytes.retain(|at, _| !(first..first + PAGE_SIZE).contains(at));
    }
}
