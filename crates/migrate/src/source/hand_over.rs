//! Giving the guest over, and what to do when nobody can tell whether it was taken.

use super::greet::connect_to;
use super::live::Live;
use super::stopped::Stopped;
use super::{Kept, Moved, Outcome};
use crate::breaks::Break;
use crate::cancel::Cancel;
use crate::failure::{Cause, Failure};
use crate::guest::SourceGuest;
use crate::identity::MigrationId;
use crate::progress::{Phase, Progress};
use crate::report::Report;
use crate::wire::{Answer, Message, Query};
use vellum_memory::DirtySource;

/// The guest is paused, and the destination could run it: the memories are the same as far as
/// anybody asked.
#[derive(Debug)]
pub(super) struct Ready<G>(pub(super) Stopped<G>);

/// The hand-over was sent, or may have been, and no acknowledgement came back: the guest is paused
/// here and perhaps runs there. Dropping this leaves it paused.
///
/// [`ask`](Self::ask) lets the destination decide; [`resume`](Self::resume) is a person's decision.
#[must_use = "it holds the paused guest"]
#[derive(Debug)]
pub struct Unknown<G> {
    stopped: Box<Stopped<G>>,
    failure: Failure,
}

impl<G: SourceGuest> Ready<G> {
    /// Hands the guest over. Once the first byte of that may have left, the source does not resume
    /// it by itself.
    pub(super) fn hand_over(mut self, watch: &mut dyn FnMut(Progress)) -> Outcome<G> {
        let link = &mut self.0.live.traffic.link;
        let before = link.written();
        let sent = link.send(&Message::HandOver);
        watch(self.0.live.traffic.progress(Phase::HandOver, 0));
        match sent {
            Ok(()) => self.await_running(),
            Err(cause) if self.0.live.traffic.link.written() == before => {
                Outcome::Kept(*self.0.keep(Phase::HandOver, cause))
            }
            Err(cause) => self.0.unknown(cause),
        }
    }

    fn await_running(mut self) -> Outcome<G> {
        match self.0.live.traffic.link.insist_on_answer() {
            Ok(Message::Running) => Outcome::Moved(self.0.moved()),
            // A destination that gives up has not taken the guest and will not.
            Ok(Message::Abort(refusal)) => {
                Outcome::Kept(*self.0.keep(Phase::HandOver, Cause::Aborted(refusal)))
            }
            Ok(other) => {
                let cause = Cause::Unexpected(other.kind());
                self.0.unknown(cause)
            }
            Err(cause) => self.0.unknown(cause),
        }
    }
}

impl<G: SourceGuest> Stopped<G> {
    fn moved(self) -> Moved<G> {
        let Live { held, .. } = self.live;
        let mut held = held.ended();
        // The shell never runs again: a log that cannot be stopped costs nothing.
        let _ = held.guest.dirty().stop();
        Moved { guest: held.guest, report: held.report }
    }

    fn unknown(mut self, cause: Cause) -> Outcome<G> {
        if self.live.held.options.breaks().has(Break::ResumeUnasked) {
            return Outcome::Kept(*self.keep(Phase::HandOver, cause));
        }
        self.live.held = self.live.held.ended();
        let failure = cause.during(Phase::HandOver);
        Outcome::Unknown(Unknown { stopped: Box::new(self), failure })
    }
}

impl<G: SourceGuest> Unknown<G> {
    /// Why nobody knows.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// What was done up to there.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.stopped.live.held.report
    }

    /// The attempt's name, by which the destination knows it.
    #[must_use]
    pub fn migration(&self) -> MigrationId {
        self.stopped.live.migration
    }

    /// Asks the destination, at the address it had, whether it took the guest. If it did, the
    /// guest has [moved](Outcome::Moved). If it did not, it promises that it never will, and the
    /// guest is [kept](Outcome::Kept) and resumed here. With no answer, or one from a destination
    /// that is not the same any more, the outcome stays [unknown](Outcome::Unknown). So it does if
    /// the question is cancelled, which takes nothing back.
    pub fn ask(mut self, cancel: &Cancel) -> Outcome<G> {
        match self.question(cancel) {
            Ok(Answer::Taken) => Outcome::Moved(self.stopped.moved()),
            Ok(Answer::Never) => Outcome::Kept(self.resume()),
            Ok(Answer::Stranger) => {
                self.failure = Cause::Stranger.during(Phase::HandOver);
                Outcome::Unknown(self)
            }
            Err(Cause::Cancelled) => Outcome::Unknown(self),
            Err(cause) => {
                self.failure = cause.during(Phase::HandOver);
                Outcome::Unknown(self)
            }
        }
    }

    /// Resumes the guest here. **Only for who knows that it does not run there**: a person, or a
    /// destination's promise.
    pub fn resume(self) -> Kept<G> {
        *self.stopped.keep(Phase::HandOver, self.failure.cause)
    }

    fn question(&self, cancel: &Cancel) -> Result<Answer, Cause> {
        let Live { held, migration, instance, .. } = &self.stopped.live;
        let mut link = connect_to(&held.to, cancel, held.options.patience)?;
        link.exchange_openings()?;
        link.send(&Message::Query(Query { instance: *instance, migration: *migration }))?;
        link.expect(|message| match message {
            Message::Answer(answer) => Ok(answer),
            other => Err(other.kind()),
        })
    }
}
