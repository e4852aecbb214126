//! One guest on its way in.

use super::Received;
use super::attend::{Desk, Greeting};
use crate::digest::{groups, hash_chunks};
use crate::failure::{Cause, Failure};
use crate::guest::{Destination, Fresh, IncomingGuest};
use crate::identity::MigrationId;
use crate::link::{Link, reason};
use crate::progress::{Phase, Progress};
use crate::wire::{
    Hashes, Kind, Message, PAGE, Pages, Refusal, RefusalKind, Run, Verify, WireError, Zero,
};
use crate::zero::is_zero;
use std::time::Instant;
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemory, PAGE_BYTES, write_page};
use vellum_memory::{Gfn, Layout, PageSet, Region};

/// A guest that was accepted and is not taken yet. Dropping it discards what came.
#[derive(Debug)]
pub(super) struct Incoming<'d, G> {
    link: Link,
    desk: &'d Desk,
    migration: MigrationId,
    began: Instant,
    place: Place<G>,
    phase: Phase,
    round: u32,
}

/// The guest and where its pages go.
#[derive(Debug)]
struct Place<G> {
    guest: G,
    layout: Layout,
    state: State,
    /// The pages that may hold something, if it is known of all others that they do not.
    held: Option<PageSet>,
    pages: u64,
    zero: u64,
}

/// Whether the guest has what it needs to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Awaited,
    Restored,
}

/// What a message that was put in place leads to.
enum Next {
    More,
    RoundEnded,
    Finished(Verify),
}

impl<'d, G: IncomingGuest> Incoming<'d, G> {
    /// Prepares a place for the guest, or tells the source why there is none.
    pub(super) fn prepare<D: Destination<Guest = G>>(
        greeting: Greeting,
        destination: &mut D,
        desk: &'d Desk,
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        match Place::prepare(&greeting, destination, desk) {
            Ok(place) => {
                let Greeting { link, migration, .. } = greeting;
                Ok(Self { link, desk, migration, began, place, phase: Phase::Greet, round: 1 })
            }
            Err(refusal) => Err(greeting.decline(refusal)),
        }
    }

    /// Receives it and takes it.
    pub(super) fn receive(
        mut self,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Received<G>, Failure> {
        match self.arrive(watch) {
            Ok(()) => Ok(self.run()),
            Err(cause) => {
                let Self { link, place, phase, .. } = self;
                // Gone before the source hears of it.
                drop(place);
                link.give_up(reason(&cause));
                Err(cause.during(phase))
            }
        }
    }

    /// Up to the moment at which the guest is ours.
    fn arrive(&mut self, watch: &mut dyn FnMut(Progress)) -> Result<(), Cause> {
        self.link.send(&Message::Accept(self.desk.instance))?;
        self.enter(Phase::Copy, watch);
        let verify = self.copy(watch)?;
        self.link.send(&Message::Ready)?;
        if verify == Verify::Compare {
            self.enter(Phase::Verify, watch);
            self.send_hashes()?;
        }
        self.link.expect(|message| match message {
            Message::HandOver => Ok(()),
            other => Err(other.kind()),
        })?;
        self.enter(Phase::HandOver, watch);
        self.desk.decisions.take(self.migration).map_err(|_| Cause::Promised)
    }

    /// The guest is ours: it runs, and then the source is told.
    fn run(mut self) -> Received<G> {
        self.place.guest.resume();
        self.link.insist();
        let told = self.link.send(&Message::Running);
        Received {
            migration: self.migration,
            pages: self.place.pages,
            zero: self.place.zero,
            bytes: self.link.read(),
            total: self.began.elapsed(),
            unacknowledged: told.err().map(|cause| cause.during(Phase::HandOver)),
            guest: self.place.guest,
        }
    }

    /// Puts everything in its place until the source says that that was all.
    fn copy(&mut self, watch: &mut dyn FnMut(Progress)) -> Result<Verify, Cause> {
        loop {
            match self.place.put(self.link.receive()?)? {
                Next::More => {}
                Next::RoundEnded => self.round += 1,
                Next::Finished(verify) => return Ok(verify),
            }
            watch(self.progress());
        }
    }

    fn send_hashes(&mut self) -> Result<(), Cause> {
        let Place { guest, layout, .. } = &self.place;
        for (index, &region) in (0..).zip(layout.regions()) {
            for (first, count) in groups(region) {
                let hashes = hash_chunks(guest.memory(region.space), region, first, count)?;
                self.link.send(&Message::Digest(Hashes { region: index, first, hashes }))?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase, watch: &mut dyn FnMut(Progress)) {
        self.phase = phase;
        watch(self.progress());
    }

    fn progress(&self) -> Progress {
        let sent = self.place.pages + self.place.zero;
        let bytes = self.link.read();
        Progress { phase: self.phase, round: self.round, sent, remaining: 0, bytes }
    }
}

impl<G: IncomingGuest> Place<G> {
    fn prepare<D: Destination<Guest = G>>(
        greeting: &Greeting,
        destination: &mut D,
        desk: &Desk,
    ) -> Result<Self, Refusal> {
        let Greeting { migration, layout, identity, .. } = greeting;
        if desk.decisions.knows(*migration) {
            return Err(Refusal::new(RefusalKind::Known, "it has had this very migration before"));
        }
        let guest = destination.prepare(identity, layout)?;
        let zeros = guest.fresh() == Fresh::Zeros;
        let held = zeros.then(|| PageSet::try_new(layout)).transpose();
        let held = held.map_err(|error| reason(&error.into()))?;
        let layout = layout.clone();
        Ok(Self { guest, layout, state: State::Awaited, held, pages: 0, zero: 0 })
    }

    fn put(&mut self, message: Message<'_>) -> Result<Next, Cause> {
        match message {
            Message::Pages(pages) => self.write(&pages).map(|()| Next::More),
            Message::Zero(zero) => self.clear(&zero).map(|()| Next::More),
            Message::RoundEnd => Ok(Next::RoundEnded),
            Message::State(state) => self.restore(state).map(|()| Next::More),
            Message::Finish(verify) if self.state == State::Restored => Ok(Next::Finished(verify)),
            Message::Abort(refusal) => Err(Cause::Aborted(refusal)),
            other => Err(Cause::Unexpected(other.kind())),
        }
    }

    /// The state comes once, after the last page: a second one is out of place.
    fn restore(&mut self, state: &[u8]) -> Result<(), Cause> {
        if self.state == State::Restored {
            return Err(Cause::Unexpected(Kind::State));
        }
        self.guest.restore(state).map_err(|error| Cause::State(Box::new(error)))?;
        self.state = State::Restored;
        Ok(())
    }

    fn write(&mut self, pages: &Pages<'_>) -> Result<(), Cause> {
        let region = self.region(pages.region, &pages.runs)?;
        let memory = self.guest.memory(region.space);
        let mut data = pages.data;
        for run in &*pages.runs {
            // The decoder has checked that the runs and the data have the same length.
            let length = usize::try_from(run.pages).map_or(data.len(), |pages| pages * PAGE);
            let (bytes, rest) = data.split_at_checked(length).ok_or(WireError::Short)?;
            let address = gfn(region, run.first).gpa();
            memory.write_slice(bytes, GuestAddress(address.get())).map_err(Cause::Memory)?;
            data = rest;
            self.pages += run.pages;
            if let Some(held) = &mut self.held {
                let set = &mut held.regions_mut()[pages.region as usize];
                (run.first..run.first + run.pages).for_each(|page| set.insert(page));
            }
        }
        Ok(())
    }

    fn clear(&mut self, zero: &Zero<'_>) -> Result<(), Cause> {
        let region = self.region(zero.region, &zero.runs)?;
        let memory = self.guest.memory(region.space);
        let held = self.held.as_ref().map(|held| &held.regions()[zero.region as usize]);
        for run in &*zero.runs {
            for page in run.first..run.first + run.pages {
                if held.is_none_or(|held| held.contains(page)) {
                    clear_page(memory, gfn(region, page))?;
                }
            }
            self.zero += run.pages;
        }
        Ok(())
    }

    /// The region of a message, after checking that every run lies in it.
    fn region(&self, index: u32, runs: &[Run]) -> Result<Region, Cause> {
        let found = self.layout.regions().get(index as usize);
        let region = *found.ok_or(WireError::Region(index))?;
        for &Run { first, pages } in runs {
            let fits = first.checked_add(pages).is_some_and(|end| end <= region.range.pages());
            if !fits {
                return Err(WireError::Run { region: index, first, pages }.into());
            }
        }
        Ok(region)
    }
}

/// Makes a page zero. One that is zero already is only read, so that a sparse memory stays sparse;
/// one that held data is overwritten.
fn clear_page<M: GuestMemory>(memory: &M, gfn: Gfn) -> Result<(), Cause> {
    if !is_zero(memory, gfn).map_err(Cause::Memory)? {
        write_page(memory, gfn, &[0; PAGE_BYTES]).map_err(Cause::Memory)?;
    }
    Ok(())
}

fn gfn(region: Region, page: u64) -> Gfn {
    Gfn::new(region.range.first().get() + page)
}
