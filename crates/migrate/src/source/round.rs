//! One round: what the log found is protected, read and sent, a stretch at a time.

use super::batch::Batch;
use crate::failure::Cause;
use crate::guest::SourceGuest;
use crate::link::Link;
use crate::progress::{Phase, Progress};
use crate::report::Round;
use crate::wire::Message;
use std::collections::TryReserveError;
use std::time::{Duration, Instant};
use vellum_memory::{DirtySource, Gfn, GfnRange, Layout, PageSet, Region, RegionSet};

/// Words of the page set that are protected, read and sent together: 16 MiB of pages.
const STRETCH: u64 = 64;

/// Everything that moves pages, and what it has moved.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) link: Link,
    load: Load,
    number: u32,
    began: Instant,
    bytes_before: u64,
    /// Time spent collecting and protecting in this round.
    harvest: Duration,
    tally: Round,
}

/// The pages of an attempt: all the memory that it needs beside the guest's.
#[derive(Debug)]
pub(super) struct Load {
    layout: Layout,
    /// What is to be sent.
    round: PageSet,
    /// All that was ever taken from the log: what is owed if the attempt fails.
    taken: PageSet,
    batch: Batch,
}

impl Load {
    /// Everything is to be sent.
    ///
    /// # Errors
    /// No memory for it.
    pub(super) fn everything(layout: Layout) -> Result<Self, TryReserveError> {
        let mut load = Self::nothing(layout)?;
        load.round.regions_mut().iter_mut().for_each(RegionSet::fill);
        Ok(load)
    }

    /// Nothing is to be sent yet.
    ///
    /// # Errors
    /// No memory for what is to come.
    pub(super) fn nothing(layout: Layout) -> Result<Self, TryReserveError> {
        let (round, taken) = (PageSet::try_new(&layout)?, PageSet::try_new(&layout)?);
        Ok(Self { layout, round, taken, batch: Batch::try_new()? })
    }
}

/// Where a round's pages come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// All pages, before the log has found any: [`DirtySource::start`] has protected them.
    Everything,
    /// The log: each stretch is protected before it is read.
    Log,
}

/// A round that is over.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) round: Round,
    pub(super) harvest: Duration,
}

impl Traffic {
    pub(super) fn new(link: Link, load: Load) -> Self {
        Self {
            number: 1,
            began: Instant::now(),
            bytes_before: link.written(),
            harvest: Duration::ZERO,
            tally: Round::default(),
            link,
            load,
        }
    }

    /// All that was taken from the log since it was started.
    pub(super) fn taken(&self) -> &PageSet {
        &self.load.taken
    }

    /// How many pages are to be sent, as far as it is known.
    pub(super) fn remaining(&self) -> u64 {
        self.load.round.count()
    }

    /// Takes what the log has found into the round.
    pub(super) fn collect<G: SourceGuest>(&mut self, guest: &mut G) -> Result<(), Cause> {
        let began = Instant::now();
        guest.dirty().collect(&mut self.load.round).map_err(log_failed)?;
        self.harvest += began.elapsed();
        self.load.taken.merge(&self.load.round);
        Ok(())
    }

    /// Sends each stretch that holds pages of the round once. What a source adds to a stretch that
    /// was sent already stays in the round.
    pub(super) fn pass<G: SourceGuest>(
        &mut self,
        guest: &mut G,
        origin: Origin,
        phase: Phase,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(), Cause> {
        let mut remaining = self.remaining();
        for (index, stretch) in self.stretches() {
            watch(self.progress(phase, remaining));
            self.link.look_up()?;
            if origin == Origin::Log {
                self.protect(guest, index, stretch)?;
            }
            remaining = remaining.saturating_sub(self.send_stretch(guest, index, stretch)?);
        }
        watch(self.progress(phase, remaining));
        Ok(())
    }

    /// Tells the destination that the round is over, and begins the next.
    pub(super) fn end(&mut self) -> Result<Done, Cause> {
        self.link.send(&Message::RoundEnd)?;
        let bytes = self.link.written() - self.bytes_before;
        let round = Round { bytes, time: self.began.elapsed(), ..self.tally };
        let done = Done { round, harvest: self.harvest };
        self.number += 1;
        self.began = Instant::now();
        self.bytes_before = self.link.written();
        self.harvest = Duration::ZERO;
        self.tally = Round::default();
        Ok(done)
    }

    pub(super) fn progress(&self, phase: Phase, remaining: u64) -> Progress {
        let sent = self.tally.sent + self.tally.zero;
        Progress { phase, round: self.number, sent, remaining, bytes: self.link.written() }
    }

    /// The stretches that hold pages of the round: region and number.
    fn stretches(&self) -> Vec<(usize, u64)> {
        let mut found = Vec::new();
        for (index, set) in self.load.round.regions().iter().enumerate() {
            for stretch in set.words().map(|(word, _)| (index, word / STRETCH)) {
                if found.last() != Some(&stretch) {
                    found.push(stretch);
                }
            }
        }
        found
    }

    /// From its return on, a store to the stretch is in a later round.
    fn protect<G: SourceGuest>(
        &mut self,
        guest: &mut G,
        index: usize,
        stretch: u64,
    ) -> Result<(), Cause> {
        let began = Instant::now();
        let range = range_of(self.load.layout.regions()[index], stretch);
        guest.dirty().protect(index, range, &mut self.load.round).map_err(log_failed)?;
        self.harvest += began.elapsed();
        let (round, taken) =
            (&self.load.round.regions()[index], &mut self.load.taken.regions_mut()[index]);
        for word in words_of(stretch) {
            taken.insert_word(word, round.word(word));
        }
        Ok(())
    }

    /// Reads and sends the pages of the stretch, takes them out of the round and counts them.
    fn send_stretch<G: SourceGuest>(
        &mut self,
        guest: &G,
        index: usize,
        stretch: u64,
    ) -> Result<u64, Cause> {
        let region = self.load.layout.regions()[index];
        let memory = guest.memory(region.space);
        let set = &mut self.load.round.regions_mut()[index];
        self.load.batch.begin(index, &mut self.link)?;
        for word in words_of(stretch) {
            for page in pages_of(word, set.word(word)) {
                set.remove(page);
                self.load.batch.add(memory, region, page, &mut self.link)?;
            }
        }
        self.load.batch.flush(&mut self.link)?;
        Ok(self.count())
    }

    /// Adds what the batch has counted to the round's tally.
    fn count(&mut self) -> u64 {
        let counts = self.load.batch.take_counts();
        let pages = counts.sent + counts.zero;
        self.tally.dirty += pages;
        self.tally.sent += counts.sent;
        self.tally.zero += counts.zero;
        pages
    }
}

/// The words of a page set that a stretch covers.
fn words_of(stretch: u64) -> core::ops::Range<u64> {
    stretch * STRETCH..(stretch + 1) * STRETCH
}

/// The pages that the bits of `mask` stand for.
fn pages_of(word: u64, mask: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| mask >> bit & 1 != 0).map(move |bit| word * 64 + bit)
}

/// The stretch in frame numbers, cut at the region's end. A part of a range is a range; were it
/// not, protecting the whole region would be right too.
fn range_of(region: Region, stretch: u64) -> GfnRange {
    let first = stretch * STRETCH * 64;
    let pages = (STRETCH * 64).min(region.range.pages().saturating_sub(first));
    let gfn = Gfn::new(region.range.first().get() + first);
    GfnRange::new(gfn, pages).unwrap_or(region.range)
}

fn log_failed<E: core::error::Error + Send + Sync + 'static>(error: E) -> Cause {
    Cause::Log(Box::new(error))
}
