//! Copying while the guest runs.

use super::Kept;
use super::greet::Greeted;
use super::held::Held;
use super::pace::Pace;
use super::round::{Done, Load, Origin, Traffic};
use super::stopped::Stopped;
use crate::breaks::Break;
use crate::failure::Cause;
use crate::guest::SourceGuest;
use crate::identity::{InstanceId, MigrationId};
use crate::link::reason;
use crate::progress::{Phase, Progress};
use crate::report::Stop;
use std::time::Instant;
use vellum_memory::DirtySource;

/// The guest runs here and its log is on.
#[derive(Debug)]
pub(super) struct Live<G> {
    pub(super) held: Held<G>,
    pub(super) traffic: Traffic,
    pub(super) migration: MigrationId,
    pub(super) instance: InstanceId,
    pace: Pace,
}

/// Enough was copied: it is time to pause the guest.
#[derive(Debug)]
pub(super) struct Converged<G>(Live<G>);

impl<G: SourceGuest> Live<G> {
    /// Starts the log.
    pub(super) fn start(
        greeted: Greeted<G>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Self, Box<Kept<G>>> {
        let Greeted { mut held, link, migration, instance } = greeted;
        watch(Progress { phase: Phase::Start, round: 0, sent: 0, remaining: 0, bytes: 0 });
        match load_and_log(&mut held) {
            Ok(load) => {
                let traffic = Traffic::new(link, load);
                Ok(Self { held, traffic, migration, instance, pace: Pace::default() })
            }
            Err(cause) => {
                link.give_up(reason(&cause));
                Err(held.keep(Phase::Start, cause))
            }
        }
    }

    /// Makes rounds until it is time to pause the guest.
    pub(super) fn copy(
        mut self,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Converged<G>, Box<Kept<G>>> {
        match self.rounds(watch) {
            Ok(stop) => {
                self.held.report.stop = Some(stop);
                Ok(Converged(self))
            }
            Err(cause) => Err(self.keep(Phase::Copy, cause)),
        }
    }

    /// On return the round holds what was collected last and is not sent.
    fn rounds(&mut self, watch: &mut dyn FnMut(Progress)) -> Result<Stop, Cause> {
        self.round(Origin::Everything, watch)?;
        loop {
            self.traffic.collect(&mut self.held.guest)?;
            let dirty = self.traffic.remaining();
            if let Some(stop) = self.pace.stop(dirty, self.held.options.downtime) {
                return Ok(stop);
            }
            self.round(Origin::Log, watch)?;
        }
    }

    fn round(&mut self, origin: Origin, watch: &mut dyn FnMut(Progress)) -> Result<(), Cause> {
        self.traffic.pass(&mut self.held.guest, origin, Phase::Copy, watch)?;
        let done = self.traffic.end()?;
        self.pace.learn(&done.round);
        self.held.note_round(&done);
        Ok(())
    }

    /// Undoes the attempt: tells the destination why, owes what was taken, stops the log.
    pub(super) fn keep(mut self, phase: Phase, cause: Cause) -> Box<Kept<G>> {
        self.held.guest.dirty().owe(self.traffic.taken());
        let Self { held, mut traffic, .. } = self;
        // The guest is free of its log before anybody waits for the other side.
        let mut kept = held.keep_logged(phase, cause);
        kept.failure.cause = traffic.link.last_words(kept.failure.cause);
        traffic.link.give_up(reason(&kept.failure.cause));
        kept
    }
}

/// What is to be sent, and the log on.
fn load_and_log<G: SourceGuest>(held: &mut Held<G>) -> Result<Load, Cause> {
    let layout = held.layout();
    let load = if held.options.breaks().has(Break::ForgetOwed) {
        Load::nothing(layout)?
    } else {
        Load::everything(layout)?
    };
    held.guest.dirty().start().map_err(|error| Cause::Log(Box::new(error)))?;
    Ok(load)
}

impl<G: SourceGuest> Converged<G> {
    /// Pauses the guest.
    pub(super) fn pause(self, watch: &mut dyn FnMut(Progress)) -> Stopped<G> {
        let Self(mut live) = self;
        watch(live.traffic.progress(Phase::StopAndCopy, live.traffic.remaining()));
        let paused = Instant::now();
        live.held.guest.pause();
        Stopped { live, paused }
    }
}

impl<G: SourceGuest> Held<G> {
    /// Puts a finished round on the report.
    pub(super) fn note_round(&mut self, done: &Done) {
        if !self.report.rounds.is_empty() {
            self.report.first_harvest.get_or_insert(done.harvest);
        }
        self.report.rounds.push(done.round);
    }
}
