//! The guest is paused: the rest of its pages, its state, and the proof that all arrived.

use super::Kept;
use super::greet::limit;
use super::hand_over::Ready;
use super::live::Live;
use super::round::Origin;
use crate::digest::{Digest, Hash, difference, groups, hash_chunks};
use crate::failure::Cause;
use crate::guest::SourceGuest;
use crate::link::Link;
use crate::progress::{Phase, Progress};
use crate::report::{RegionDigest, Stop, Verdict};
use crate::wire::{Hashes, Kind, MOST_STATE, Message, Verify, WireError};
use std::time::Instant;
use vellum_memory::Region;

/// The guest is paused here and its log is on.
#[derive(Debug)]
pub(super) struct Stopped<G> {
    pub(super) live: Live<G>,
    pub(super) paused: Instant,
}

impl<G: SourceGuest> Stopped<G> {
    /// Sends what is left, until the destination says that it could run the guest.
    pub(super) fn copy(
        mut self,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Ready<G>, Box<Kept<G>>> {
        match self.copy_rest(watch).and_then(|()| self.finish()) {
            Ok(()) => Ok(Ready(self)),
            Err(cause) => Err(self.keep(Phase::StopAndCopy, cause)),
        }
    }

    /// The last round: a paused guest has one more harvest (D1), and it ends empty.
    fn copy_rest(&mut self, watch: &mut dyn FnMut(Progress)) -> Result<(), Cause> {
        let Live { held, traffic, .. } = &mut self.live;
        traffic.collect(&mut held.guest)?;
        while traffic.remaining() > 0 {
            traffic.pass(&mut held.guest, Origin::Log, Phase::StopAndCopy, watch)?;
        }
        let done = traffic.end()?;
        held.note_round(&done);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Cause> {
        let Live { held, traffic, .. } = &mut self.live;
        let state = held.guest.save_state().map_err(|error| Cause::State(Box::new(error)))?;
        limit(Kind::State, state.len(), MOST_STATE)?;
        traffic.link.send(&Message::State(&state))?;
        traffic.link.send(&Message::Finish(held.options.verify))?;
        traffic.link.expect(|message| match message {
            Message::Ready => Ok(()),
            other => Err(other.kind()),
        })?;
        self.note_downtime();
        Ok(())
    }

    fn note_downtime(&mut self) {
        let held = &mut self.live.held;
        let downtime = self.paused.elapsed();
        let outrun = held.report.stop != Some(Stop::Fits);
        held.report.downtime = Some(downtime);
        held.report.missed_downtime = outrun || downtime > held.options.downtime;
    }

    /// Undoes the attempt; the guest runs on.
    pub(super) fn keep(mut self, phase: Phase, cause: Cause) -> Box<Kept<G>> {
        self.live.held.guest.resume();
        self.live.keep(phase, cause)
    }
}

impl<G: SourceGuest> Ready<G> {
    /// Compares the memories, if that was asked for.
    pub(super) fn verify(mut self, watch: &mut dyn FnMut(Progress)) -> Result<Self, Box<Kept<G>>> {
        if self.0.live.held.options.verify == Verify::Skip {
            return Ok(self);
        }
        watch(self.0.live.traffic.progress(Phase::Verify, 0));
        match self.0.compare() {
            Ok(()) => Ok(self),
            Err(cause) => Err(self.0.keep(Phase::Verify, cause)),
        }
    }
}

impl<G: SourceGuest> Stopped<G> {
    fn compare(&mut self) -> Result<(), Cause> {
        let began = Instant::now();
        let regions = self.live.held.layout().regions().to_vec();
        let mut verdict = Verdict::Same;
        for (index, region) in regions.into_iter().enumerate() {
            let (ours, theirs) = self.both_hashes(index, region)?;
            self.live.held.report.digests.push(RegionDigest {
                slot: region.slot,
                source: Digest::of(&ours),
                destination: Digest::of(&theirs),
            });
            if verdict == Verdict::Same {
                verdict = judge(region, &ours, &theirs);
            }
        }
        self.live.held.report.verdict = verdict;
        self.live.held.report.verify = Some(began.elapsed());
        match verdict {
            Verdict::Different(difference) => Err(Cause::Different(difference)),
            _ => Ok(()),
        }
    }

    /// The hashes of all chunks of a region, ours and theirs.
    fn both_hashes(
        &mut self,
        index: usize,
        region: Region,
    ) -> Result<(Vec<Hash>, Vec<Hash>), Cause> {
        let Live { held, traffic, .. } = &mut self.live;
        let memory = held.guest.memory(region.space);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (first, count) in groups(region) {
            traffic.link.look_up()?;
            ours.extend(hash_chunks(memory, region, first, count)?);
            theirs.extend(their_hashes(&mut traffic.link, index, first, count)?);
        }
        Ok((ours, theirs))
    }
}

/// The destination's hashes of exactly these chunks.
fn their_hashes(link: &mut Link, index: usize, first: u64, count: u64) -> Result<Vec<Hash>, Cause> {
    let got = link.expect(|message| match message {
        Message::Digest(hashes) => Ok(hashes),
        other => Err(other.kind()),
    })?;
    let Hashes { region, first: at, hashes } = got;
    if region as usize == index && at == first && hashes.len() as u64 == count {
        Ok(hashes)
    } else {
        Err(WireError::Hashes { region, first: at }.into())
    }
}

fn judge(region: Region, ours: &[Hash], theirs: &[Hash]) -> Verdict {
    difference(region, ours, theirs).map_or(Verdict::Same, Verdict::Different)
}
