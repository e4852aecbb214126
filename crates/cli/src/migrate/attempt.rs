//! Trying to move a guest, and what follows when nobody knows where it is.

use crate::child::Destination;
use crate::event::{Ended, Event};
use crate::interrupt::Interrupt;
use crate::machine::Movable;
use crate::show::Show;
use crate::source::{Source, Watch};
use std::time::{Duration, Instant};
use vellum_memory::DirtySource;
use vellum_migrate::{Address, Cause, Kept, Moved, Options, Outcome, Report, Unknown, migrate};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Between two questions to a destination that may have the guest.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How often a wait looks up.
const TICK: Duration = Duration::from_millis(10);

/// How it ended.
pub(super) enum Ending {
    /// The guest is there.
    Moved {
        /// How and why it does not run there: it had ended before it was handed over.
        ended: Option<(Ended, String)>,
        /// What was done.
        report: Report,
    },
    /// The guest runs here.
    Kept {
        /// Where and why it failed.
        reason: String,
        /// What was done up to there.
        report: Report,
    },
    /// The guest has ended here: there is nothing left to move.
    Over {
        /// How.
        how: Ended,
        /// The same, in words.
        end: String,
        /// Where and why the last attempt failed.
        reason: String,
        /// What was done up to there.
        report: Report,
    },
    /// Somebody gave up before it was known where the guest runs; it is paused here.
    GivenUp {
        /// Why it was not known.
        reason: String,
        /// What was done up to there.
        report: Report,
    },
}

/// What attempts have in common.
pub(super) struct Attempts<'a> {
    pub(super) to: &'a Address,
    pub(super) downtime: Duration,
    pub(super) patience: Duration,
    pub(super) count: u32,
    pub(super) interrupt: &'a Interrupt,
    pub(super) show: &'a Show,
    #[cfg(feature = "breaks")]
    pub(super) broken: Option<crate::breaks::Name>,
}

/// What somebody has decided about a guest that may be in two places.
enum Decision {
    /// It does not run there.
    Resume,
    /// Nobody waits any longer.
    GiveUp,
    /// Nobody has: ask again.
    Ask,
}

impl Attempts<'_> {
    /// Tries until the guest has moved, or was tried often enough, or has ended, or somebody stops it.
    pub(super) fn run<M: Movable, L: DirtySource>(
        &self,
        mut source: Source<'_, M, L>,
        mut child: Option<&mut Destination>,
    ) -> Ending {
        let machine = source.machine;
        let mut attempt = 0;
        loop {
            let kept = match self.once(attempt, source, child.as_deref_mut()) {
                Ok(kept) => kept,
                Err(ending) => return *ending,
            };
            attempt += 1;
            let (reason, report) = (kept.failure.to_string(), kept.report);
            if machine.ended().is_none() {
                self.show.say(&Event::RunsOn { reason: reason.clone() });
            }
            let cancelled = matches!(kept.failure.cause, Cause::Cancelled);
            let last = attempt == self.count || cancelled || !self.pause(machine);
            if let Some((how, end)) = machine.ended() {
                self.show.say(&Event::Ended { how, reason: end.clone() });
                return Ending::Over { how, end, reason, report };
            }
            if last {
                return Ending::Kept { reason, report };
            }
            source = kept.guest;
        }
    }

    /// One attempt, from 0. `Err` is its end where there can be no other.
    fn once<'m, M: Movable, L: DirtySource>(
        &self,
        attempt: u32,
        guest: Source<'m, M, L>,
        child: Option<&mut Destination>,
    ) -> Result<Kept<Source<'m, M, L>>, Box<Ending>> {
        let mut watch = Watch::new(self.show);
        let outcome = migrate(guest, self.to, &self.options(attempt), &mut |now| watch.see(now));
        match outcome {
            Outcome::Moved(moved) => Err(self.moved(moved)),
            Outcome::Kept(kept) => Ok(kept),
            Outcome::Unknown(unknown) => self.settle(unknown, child),
        }
    }

    fn options(&self, attempt: u32) -> Options {
        Options {
            downtime: self.downtime,
            patience: self.patience,
            cancel: self.interrupt.cancel(),
            ..self.usual(attempt)
        }
    }

    #[cfg(not(feature = "breaks"))]
    #[allow(clippy::unused_self)]
    fn usual(&self, _: u32) -> Options {
        Options::default()
    }

    #[cfg(feature = "breaks")]
    fn usual(&self, attempt: u32) -> Options {
        crate::breaks::options(self.broken, attempt)
    }

    /// It stands here since before it was handed over: if it has ended, it has ended there too.
    fn moved<M: Movable, L>(&self, moved: Moved<Source<'_, M, L>>) -> Box<Ending> {
        let ended = moved.guest.machine.ended();
        if let Some((how, reason)) = ended.clone() {
            self.show.say(&Event::Ended { how, reason });
        }
        self.show.say(&Event::HandedOver);
        Box::new(Ending::Moved { ended, report: moved.report })
    }

    /// Asks the destination until it answers, or somebody decides.
    fn settle<'m, M: Movable, L: DirtySource>(
        &self,
        mut unknown: Unknown<Source<'m, M, L>>,
        mut child: Option<&mut Destination>,
    ) -> Result<Kept<Source<'m, M, L>>, Box<Ending>> {
        let _stale = self.interrupt.take_resume();
        // Not the cancel of the attempt, which is what may have ended the wait for an answer.
        let signalled = self.interrupt.signal_after_now();
        self.show.say(&Event::Unknown { reason: unknown.failure().to_string() });
        loop {
            match unknown.ask(&signalled) {
                Outcome::Moved(moved) => return Err(self.moved(moved)),
                Outcome::Kept(kept) => return Ok(kept),
                Outcome::Unknown(still) => unknown = still,
            }
            match self.decision(child.as_deref_mut()) {
                Decision::Resume => return Ok(unknown.resume()),
                Decision::GiveUp => {
                    let reason = unknown.failure().to_string();
                    let report = unknown.report().clone();
                    return Err(Box::new(Ending::GivenUp { reason, report }));
                }
                Decision::Ask => {}
            }
        }
    }

    /// Waits until it is time to ask again, or somebody decides.
    fn decision(&self, mut child: Option<&mut Destination>) -> Decision {
        let until = Instant::now() + ASK_EVERY;
        loop {
            let child_ended = child.as_deref_mut().is_some_and(Destination::has_ended);
            if child_ended || self.interrupt.take_resume() {
                return Decision::Resume;
            }
            if self.interrupt.stop_asked() {
                return Decision::GiveUp;
            }
            if Instant::now() >= until {
                return Decision::Ask;
            }
            std::thread::sleep(TICK);
        }
    }

    /// Waits a little between two attempts. False if somebody stops it, or there is no guest to move.
    fn pause(&self, machine: &impl Movable) -> bool {
        let until = Instant::now() + PAUSE;
        let goes_on = || !self.interrupt.stop_asked() && machine.ended().is_none();
        while Instant::now() < until && goes_on() {
            std::thread::sleep(TICK);
        }
        goes_on()
    }
}

#[cfg(test)]
mod tests;
