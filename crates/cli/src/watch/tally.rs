//! What the harts have done to the range: counted by their own threads, looked at by ours.

use super::range::Watched;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vellum_machine::denial::ForbiddenStore;
use vellum_pte::SubPageMap;

/// The most bytes that one store of a hart has.
const WIDEST: usize = 8;

/// How many writes may wait to be printed. Then harts wait: who prints each write slows the guest
/// down, and none is lost.
const WAITING: usize = 4096;

/// One store, made or denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Store {
    /// The vCPU.
    pub(crate) vcpu: u32,
    /// Its instruction.
    pub(crate) pc: u64,
    /// The first byte.
    pub(crate) gpa: u64,
    bytes: [u8; WIDEST],
    length: usize,
}

impl Store {
    /// Of at most eight bytes; what is beyond is not shown.
    pub(crate) fn new(vcpu: u32, pc: u64, gpa: u64, stored: &[u8]) -> Self {
        let length = stored.len().min(WIDEST);
        let mut bytes = [0; WIDEST];
        bytes[..length].copy_from_slice(&stored[..length]);
        Self { vcpu, pc, gpa, bytes, length }
    }

    /// What it stores.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A store that was denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Denied {
    /// What would have happened.
    pub(crate) store: Store,
    /// The first byte that is denied.
    pub(crate) gpa: u64,
    /// The map of its page.
    pub(crate) map: SubPageMap,
}

impl From<&ForbiddenStore<'_>> for Denied {
    fn from(forbidden: &ForbiddenStore<'_>) -> Self {
        let ForbiddenStore { by, gpa, bytes, denial } = *forbidden;
        let store = Store::new(by.hart, by.pc.get(), gpa.get(), bytes);
        Self { store, gpa: denial.gpa.get(), map: denial.map }
    }
}

/// What was written to one page or sub-page. A store that touches several counts in the first of
/// them that is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    /// Where it begins.
    pub(crate) unit: u64,
    /// How often.
    pub(crate) writes: u64,
    /// The last time.
    pub(crate) last: Store,
}

/// Why a watch is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// There were as many writes as asked for.
    Writes,
    /// A store was denied.
    Denied,
    /// It took as long as asked for.
    Time,
    /// Somebody has ended it.
    Interrupted,
    /// Nobody reads what is printed.
    Unread,
    /// The guest has shut down, content.
    ShutDown,
    /// The guest has failed.
    Failed(String),
}

/// What the harts' threads and ours share.
pub(crate) struct Tally {
    watched: Watched,
    /// So many writes end the watch.
    most: Option<u64>,
    printing: Printing,
    /// Stores that were emulated because they are beside the range in a page of it.
    beside: AtomicU64,
    inner: Mutex<Inner>,
    /// For us: there is something to print, or it is over.
    news: Condvar,
    /// For harts: there is room again.
    room: Condvar,
}

/// Whether each write is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Printing {
    /// It is.
    Each,
    /// Only what they come to.
    Sums,
}

#[derive(Default)]
struct Inner {
    rows: HashMap<u64, Row>,
    writes: u64,
    waiting: Vec<Store>,
    over: Option<Over>,
    denied: Option<Denied>,
}

/// What there is to see of a tally.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// All writes to the range.
    pub(crate) writes: u64,
    /// How many pages or sub-pages have been written.
    pub(crate) units: u64,
    /// Those that were written most, as many as were asked for.
    pub(crate) hottest: Vec<Row>,
}

impl Tally {
    pub(crate) fn new(watched: Watched, most: Option<u64>, printing: Printing) -> Self {
        Self {
            watched,
            most,
            printing,
            beside: AtomicU64::new(0),
            inner: Mutex::default(),
            news: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// A hart has stored.
    pub(crate) fn add(&self, store: Store) {
        match self.watched.first_in(store.gpa, store.length as u64) {
            Some(first) => self.count(self.watched.grain().unit_of(first), store),
            None => {
                self.beside.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What comes after the end is not counted: the guest is being stopped.
    fn count(&self, unit: u64, store: Store) {
        let mut inner = self.lock();
        if inner.over.is_some() {
            return;
        }
        inner.writes += 1;
        let row = inner.rows.entry(unit).or_insert(Row { unit, writes: 0, last: store });
        row.writes += 1;
        row.last = store;
        if self.most == Some(inner.writes) {
            self.end(&mut inner, Over::Writes);
        }
        if self.printing == Printing::Each {
            self.hand_over(inner, store);
        }
    }

    fn hand_over(&self, mut inner: MutexGuard<'_, Inner>, store: Store) {
        inner.waiting.push(store);
        if inner.waiting.len() == 1 {
            self.news.notify_all();
        }
        let full = |inner: &mut Inner| inner.waiting.len() >= WAITING && inner.over.is_none();
        drop(self.room.wait_while(inner, full));
    }

    /// A store was denied. The first one counts.
    pub(crate) fn deny(&self, denied: Denied) {
        let mut inner = self.lock();
        if inner.over.is_none() {
            inner.denied = Some(denied);
            self.end(&mut inner, Over::Denied);
        }
    }

    /// The watch is over, unless it has been before.
    pub(crate) fn close(&self, over: Over) {
        self.end(&mut self.lock(), over);
    }

    fn end(&self, inner: &mut Inner, over: Over) {
        inner.over.get_or_insert(over);
        self.news.notify_all();
        self.room.notify_all();
    }

    /// Waits for news, for so long at most, and takes what is to be printed. Nothing comes after the
    /// end.
    pub(crate) fn wait(&self, most: Duration) -> (Vec<Store>, Option<Over>) {
        let quiet = |inner: &mut Inner| inner.waiting.is_empty() && inner.over.is_none();
        let waited = self.news.wait_timeout_while(self.lock(), most, quiet);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.room.notify_all();
        (std::mem::take(&mut inner.waiting), inner.over.clone())
    }

    /// What there is to see now, with so many rows.
    pub(crate) fn see(&self, rows: usize) -> Seen {
        let inner = self.lock();
        let (writes, units) = (inner.writes, inner.rows.len() as u64);
        let mut hottest: Vec<Row> = inner.rows.values().copied().collect();
        drop(inner);
        hottest.sort_unstable_by_key(|row| (u64::MAX - row.writes, row.unit));
        hottest.truncate(rows);
        Seen { writes, units, hottest }
    }

    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    pub(crate) fn beside(&self) -> u64 {
        self.beside.load(Ordering::Relaxed)
    }

    pub(crate) fn denied(&self) -> Option<Denied> {
        self.lock().denied
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Numbers, each of them whole: whoever panicked has left them so.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::range::Grain;
    use super::*;
    use std::sync::Arc;

    fn tally(most: Option<u64>, printing: Printing) -> Tally {
        let range = "0x1000..0x3000".parse().expect("a range");
        Tally::new(Watched::new(Grain::Page, &[range]), most, printing)
    }

    fn store(vcpu: u32, gpa: u64) -> Store {
        Store::new(vcpu, 0x80, gpa, &[1, 2])
    }

    #[test]
    fn a_write_counts_where_it_first_touches_the_range() {
        let tally = tally(None, Printing::Sums);
        for (vcpu, gpa) in [(0, 0xfff), (1, 0x2000), (2, 0x2008), (0, 0x3000), (0, 0x0)] {
            tally.add(store(vcpu, gpa));
        }
        let seen = tally.see(9);
        assert_eq!((seen.writes, seen.units, tally.beside()), (3, 2, 2));
        let rows: Vec<_> =
            seen.hottest.iter().map(|row| (row.unit, row.writes, row.last.vcpu)).collect();
        assert_eq!(rows, [(0x2000, 2, 2), (0x1000, 1, 0)]);
        assert_eq!(tally.see(1).hottest.len(), 1);
    }

    #[test]
    fn after_the_last_write_asked_for_none_counts_and_none_is_printed() {
        let tally = tally(Some(2), Printing::Each);
        (0..5).for_each(|vcpu| tally.add(store(vcpu, 0x1000)));
        let (printed, over) = tally.wait(Duration::ZERO);
        assert_eq!(printed.iter().map(|store| store.vcpu).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((over, tally.see(1).writes), (Some(Over::Writes), 2));
        tally.close(Over::Interrupted);
        assert_eq!(tally.wait(Duration::ZERO).1, Some(Over::Writes), "the first reason counts");
    }

    #[test]
    fn a_hart_waits_for_the_printer_and_loses_nothing() {
        let tally = Arc::new(tally(None, Printing::Each));
        let hart = Arc::clone(&tally);
        let most = WAITING as u64 * 3;
        let thread = std::thread::spawn(move || {
            (0..most).for_each(|_| hart.add(store(0, 0x1000)));
            hart.close(Over::ShutDown);
        });
        let mut printed = 0;
        loop {
            let (stores, over) = tally.wait(Duration::from_secs(1));
            assert!(stores.len() <= WAITING);
            printed += stores.len() as u64;
            if over.is_some() {
                break;
            }
        }
        thread.join().expect("it did not panic");
        assert_eq!((printed, tally.see(0).writes), (most, most));
    }

    #[test]
    fn the_end_lets_go_of_harts_that_wait() {
        let tally = Arc::new(tally(None, Printing::Each));
        let hart = Arc::clone(&tally);
        let thread = std::thread::spawn(move || {
            (0..2 * WAITING).for_each(|_| hart.add(store(0, 0x1000)));
        });
        while tally.see(0).writes < WAITING as u64 {
            std::thread::yield_now();
        }
        tally.close(Over::Unread);
        thread.join().expect("it did not panic");
        assert_eq!(tally.see(0).writes, WAITING as u64);
    }

    #[test]
    fn the_first_denied_store_counts() {
        let tally = tally(None, Printing::Sums);
        let denied =
            |vcpu| Denied { store: store(vcpu, 0x1000), gpa: 0x1000, map: SubPageMap::NONE };
        tally.deny(denied(3));
        tally.deny(denied(4));
        assert_eq!(tally.denied(), Some(denied(3)));
        assert_eq!(tally.wait(Duration::ZERO).1, Some(Over::Denied));
    }
}
