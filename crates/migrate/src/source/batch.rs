//! Pages on their way into the wire: gathered until a message is worth sending.

use crate::failure::Cause;
use crate::link::Link;
use crate::room;
use crate::wire::{MOST_PAGES, MOST_RUNS, Message, PAGE, Run, Zero};
use crate::zero::is_zero;
use std::borrow::Cow;
use std::collections::TryReserveError;
use vellum_memory::guest::{GuestMemory, read_page};
use vellum_memory::{Gfn, Region};

/// Pages of one region that were read and not yet written to the wire.
#[derive(Debug)]
pub(super) struct Batch {
    region: u32,
    data: Vec<u8>,
    used: usize,
    full: Vec<Run>,
    zero: Vec<Run>,
    counts: Counts,
}

/// Pages that went into a batch since the counts were taken.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) zero: u64,
}

impl Batch {
    pub(super) fn try_new() -> Result<Self, TryReserveError> {
        let data = room::zeros(MOST_PAGES * PAGE)?;
        let (full, zero) = (Vec::new(), Vec::new());
        Ok(Self { region: 0, data, used: 0, full, zero, counts: Counts::default() })
    }

    /// What went in since the last call.
    pub(super) fn take_counts(&mut self) -> Counts {
        core::mem::take(&mut self.counts)
    }

    /// Reads the page `page` of `region`, and sends what has gathered if that fills it.
    pub(super) fn add<M: GuestMemory>(
        &mut self,
        memory: &M,
        region: Region,
        page: u64,
        link: &mut Link,
    ) -> Result<(), Cause> {
        let gfn = Gfn::new(region.range.first().get() + page);
        self.read(memory, gfn, page)?;
        if self.is_full() { self.flush(link) } else { Ok(()) }
    }

    /// Reads one page, unless it holds zeros. If the guest stores to it meanwhile it is sent again:
    /// it was protected before.
    fn read<M: GuestMemory>(&mut self, memory: &M, gfn: Gfn, page: u64) -> Result<(), Cause> {
        if is_zero(memory, gfn).map_err(Cause::Memory)? {
            self.counts.zero += 1;
            append(&mut self.zero, page);
        } else if let Some(place) = self.data[self.used..].first_chunk_mut() {
            read_page(memory, gfn, place).map_err(Cause::Memory)?;
            self.used += PAGE;
            self.counts.sent += 1;
            append(&mut self.full, page);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.used == self.data.len() || self.zero.len() == MOST_RUNS
    }

    /// Begins with the region whose place in the layout is `index`, after sending what has
    /// gathered of another.
    pub(super) fn begin(&mut self, index: usize, link: &mut Link) -> Result<(), Cause> {
        self.flush(link)?;
        self.region = u32::try_from(index).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Sends what has gathered.
    pub(super) fn flush(&mut self, link: &mut Link) -> Result<(), Cause> {
        if !self.full.is_empty() {
            link.send_pages(self.region, &self.full, &self.data[..self.used])?;
        }
        if !self.zero.is_empty() {
            let runs = Cow::Borrowed(self.zero.as_slice());
            link.send(&Message::Zero(Zero { region: self.region, runs }))?;
        }
        self.used = 0;
        self.full.clear();
        self.zero.clear();
        Ok(())
    }
}

/// Adds the page to the last run, or begins another.
fn append(runs: &mut Vec<Run>, page: u64) {
    match runs.last_mut() {
        Some(last) if last.first + last.pages == page => last.pages += 1,
        _ => runs.push(Run { first: page, pages: 1 }),
    }
}
