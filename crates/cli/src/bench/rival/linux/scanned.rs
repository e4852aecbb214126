//! Memory of this process, tracked by userfaultfd's write-protection and PAGEMAP_SCAN.

use super::{Error, index, rewrite};
use crate::bench::rival::Rival;
use crate::bench::sample::time;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
use vellum_memory::{AddressSpace, DirtySource, PageSet};
use vellum_process::ProcessLog;
use vellum_pte::PAGE_SIZE;

/// The memory, its log, which is on, and a round of it.
pub(super) struct Scanned {
    memory: GuestMemoryMmap,
    log: ProcessLog,
    round: PageSet,
    pages: u64,
    threads: u64,
}

impl Scanned {
    /// So many pages, all there, and so many threads that store to them.
    pub(super) fn new(pages: u64, threads: u64) -> Result<Self, Error> {
        let bytes = index(pages * PAGE_SIZE);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]);
        let memory = memory.map_err(io::Error::other)?;
        let log = ProcessLog::of_guest(&memory, AddressSpace::NORMAL)?;
        let round = PageSet::new(log.layout());
        let mut this = Self { memory, log, round, pages, threads };
        this.rewrite()?;
        this.log.start()?;
        Ok(this)
    }
}

impl Rival for Scanned {
    fn harvest(&mut self) -> Result<Duration, Error> {
        self.round.clear();
        let (collected, elapsed) = time(|| self.log.collect(&mut self.round));
        collected?;
        Ok(elapsed)
    }

    fn rewrite(&mut self) -> Result<Duration, Error> {
        rewrite(self.pages, self.threads, |page| {
            let at = GuestAddress(page * PAGE_SIZE);
            self.memory.store(page, at, Ordering::Relaxed).map_err(Error::from)
        })
    }
}
