//! Memory under `mprotect`, and a handler of `SIGSEGV`.

use super::{Error, index, rewrite};
use crate::bench::rival::Rival;
use crate::bench::sample::time;
use std::hint::black_box;
use std::time::Duration;
use vellum_rivals::signal::Signalled;

/// The memory, and how many threads store to it.
pub(super) struct Protected {
    memory: Signalled,
    pages: u64,
    threads: u64,
}

impl Protected {
    pub(super) fn new(pages: u64, threads: u64) -> Result<Self, Error> {
        let memory = Signalled::new(index(pages))?;
        Ok(Self { memory, pages, threads })
    }
}

impl Rival for Protected {
    fn harvest(&mut self) -> Result<Duration, Error> {
        let (harvested, elapsed) = time(|| {
            black_box(self.memory.written().map(u64::count_ones).sum::<u32>());
            self.memory.protect()
        });
        harvested.map_err(Error::System)?;
        Ok(elapsed)
    }

    fn rewrite(&mut self) -> Result<Duration, Error> {
        rewrite(self.pages, self.threads, |page| {
            self.memory.store(index(page), page);
            Ok(())
        })
    }
}
