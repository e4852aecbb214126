//! Intel's page-modification log (SDM vol. 3C, 29.3.6): what a processor that has one writes down when it
//! sets D.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vellum_pte::{AddressSpace, Gpa, PAGE_SIZE};

/// Entries of one page.
const ENTRIES: usize = 512;

/// One processor's log: a page of entries, filled from the last to the first.
#[derive(Debug)]
struct PageLog {
    entries: [u64; ENTRIES],
    /// The entry to be written next; past the page once all are.
    index: u16,
    space: AddressSpace,
}

impl PageLog {
    #[expect(clippy::cast_possible_truncation, reason = "it has a few hundred entries")]
    const LAST: u16 = ENTRIES as u16 - 1;

    fn is_full(&self) -> bool {
        self.index > Self::LAST
    }

    fn write(&mut self, gpa: Gpa) {
        self.entries[usize::from(self.index)] = gpa.get() & !(PAGE_SIZE - 1);
        self.index = self.index.wrapping_sub(1);
    }

    /// What software does at an exit: reads what was written, and sets the index back.
    fn drain(&mut self, mut entry: impl FnMut(AddressSpace, u64)) {
        let first = usize::from(self.index.wrapping_add(1));
        self.entries[first..].iter().for_each(|address| entry(self.space, *address));
        self.index = Self::LAST;
    }
}

/// A port's log, which whoever reads the dirty log drains too: on a machine he would interrupt the
/// processor for that.
#[derive(Clone, Debug)]
pub(crate) struct SharedPageLog(Arc<Mutex<PageLog>>);

impl SharedPageLog {
    fn new(space: AddressSpace) -> Self {
        let log = PageLog { entries: [0; ENTRIES], index: PageLog::LAST, space };
        Self(Arc::new(Mutex::new(log)))
    }

    fn lock(&self) -> MutexGuard<'_, PageLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an access that would set D exits instead.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// D was set for this address. There was room.
    pub(crate) fn write(&self, gpa: Gpa) {
        self.lock().write(gpa);
    }

    pub(crate) fn drain(&self, entry: impl FnMut(AddressSpace, u64)) {
        self.lock().drain(entry);
    }

    /// The port goes over to another address space; the log is empty.
    pub(crate) fn enter(&self, space: AddressSpace) {
        self.lock().space = space;
    }
}

/// The logs of all ports of a board.
#[derive(Debug, Default)]
pub(crate) struct PageLogs(Mutex<Vec<SharedPageLog>>);

impl PageLogs {
    fn all(&self) -> MutexGuard<'_, Vec<SharedPageLog>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, space: AddressSpace) -> SharedPageLog {
        let log = SharedPageLog::new(space);
        self.all().push(log.clone());
        log
    }

    /// The port is gone, its log drained.
    pub(crate) fn remove(&self, log: &SharedPageLog) {
        self.all().retain(|other| !Arc::ptr_eq(&other.0, &log.0));
    }

    pub(crate) fn drain(&self, entry: &mut dyn FnMut(AddressSpace, u64)) {
        for log in self.all().iter() {
            log.drain(&mut *entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_filled_from_the_last_entry_to_the_first_and_then_full() {
        let log = SharedPageLog::new(AddressSpace(1));
        for page in 0..512 {
            assert!(!log.is_full());
            log.write(Gpa::new(page * PAGE_SIZE + 77));
        }
        assert!(log.is_full());
        let mut found = Vec::new();
        log.drain(|space, address| found.push((space, address)));
        let newest_first = (0..512).rev().map(|page| (AddressSpace(1), page * PAGE_SIZE));
        assert!(found.into_iter().eq(newest_first));
        assert!(!log.is_full());
        log.drain(|_, _| panic!("nothing is left"));
    }
}
