//! Whether it was right.

use super::Job;
use super::attempt::Ending;
use crate::child::{Destination, Waited};
use crate::event::{Ended, Event};
use crate::machine::{Life, Work};
use crate::quantity::show_count;
use crate::report::{Report, Round, Stop};
use std::time::{Duration, Instant};
use vellum_migrate as library;

/// A guest that shows no sign of life for so long is said not to run.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen of the guest at the destination.
enum Seen {
    /// It runs, and has done this there.
    RunningOn(Life),
    /// It has ended there.
    Ended(Ended, String),
    /// Something else.
    Otherwise(String),
}

impl Job<'_> {
    /// The report on how it ended.
    pub(super) fn judge(&self, ending: Ending, child: Option<&mut Destination>) -> Report {
        match ending {
            Ending::Moved { ended: None, report } => self.judge_moved(self.measured(report), child),
            Ending::Moved { ended: Some((how, end)), report } => {
                let report = self.measured(report);
                let reason = format!(
                    "{}, but {end} before it was handed over: it arrived as it ended, and runs \
                     nowhere.",
                    same(&report)
                );
                Report { ended: Some(how), reason, ..report }
            }
            Ending::Kept { reason, report } => Report {
                reason: format!("{reason}. The guest ran on here, and ends with this process."),
                ..self.measured(report)
            },
            Ending::Over { how, end, reason, report } => Report {
                ended: Some(how),
                reason: format!(
                    "{end}. That was before it could be moved: the last attempt failed {reason}."
                ),
                ..self.measured(report)
            },
            Ending::GivenUp { reason, report } => Report {
                reason: format!(
                    "{reason}. Nobody knows whether the destination runs the guest; it ends here."
                ),
                ..self.measured(report)
            },
        }
    }

    fn judge_moved(&self, report: Report, child: Option<&mut Destination>) -> Report {
        let same = same(&report);
        let Some(child) = child else {
            let reason = format!("{same}, and the destination says that it runs the guest.");
            return Report { verified: true, reason, ..report };
        };
        match self.look(child) {
            Seen::RunningOn(life) => {
                let reason = format!("{same}, and {}.", self.proof.sentence());
                with(&life, Report { verified: true, reason, ..report })
            }
            Seen::Ended(how, what) => {
                Report { ended: Some(how), reason: format!("{same}, but {what}."), ..report }
            }
            Seen::Otherwise(what) => Report { reason: format!("{same}, but {what}."), ..report },
        }
    }

    /// Watches the guest at the destination until it is clear whether it runs on.
    fn look(&self, child: &mut Destination) -> Seen {
        let until = Instant::now() + PATIENCE;
        let stop = || self.interrupt.stop_asked() || Instant::now() >= until;
        match child.wait(|event| self.sign_of_life(event), stop) {
            Waited::For(seen) => seen,
            Waited::Gone => Seen::Otherwise("the destination's process ended".to_owned()),
            Waited::Stopped if self.interrupt.stop_asked() => {
                Seen::Otherwise("it was interrupted before the guest was seen to run".to_owned())
            }
            Waited::Stopped => Seen::Otherwise(format!(
                "the guest was not seen to run on within {} s",
                PATIENCE.as_secs()
            )),
        }
    }

    fn sign_of_life(&self, event: &Event) -> Option<Seen> {
        match event {
            Event::Progress(life) => {
                self.show.say(event);
                self.proof.is_given(life).then(|| Seen::RunningOn(life.clone()))
            }
            Event::Console { .. } => {
                self.show.say(event);
                None
            }
            Event::Ended { how: how @ Ended::Failed, reason } => {
                Some(Seen::Ended(*how, reason.clone()))
            }
            Event::Ended { how, .. } => {
                Some(Seen::Ended(*how, "the guest ended before it was seen to run on".to_owned()))
            }
            _ => None,
        }
    }

    /// The library's figures.
    fn measured(&self, from: library::Report) -> Report {
        Report {
            rounds: from.rounds.iter().map(round).collect(),
            total_ns: Some(ns(from.total)),
            downtime_ns: from.downtime.map(ns),
            stop: from.stop.map(stop),
            verify_ns: from.verify.map(ns),
            first_harvest_ns: from.first_harvest.map(ns),
            pages: from.pages,
            ..self.report()
        }
    }
}

/// What was compared.
fn same(report: &Report) -> String {
    format!("{} pages have the same digest on both sides", show_count(report.pages))
}

/// The report, with what the guest has done there.
fn with(life: &Life, report: Report) -> Report {
    let work = Some(life.work.amounts().iter().sum());
    let (ran_on, ran_on_exits) = match life.work {
        Work::Retired(_) => (work, None),
        Work::Exits(_) => (None, work),
    };
    let ran_on_passes = life.passes.iter().min().copied();
    Report { ran_on, ran_on_exits, ran_on_passes, ..report }
}

fn round(round: &library::Round) -> Round {
    let library::Round { dirty, sent, zero, bytes, time } = *round;
    Round { dirty, sent, zero, bytes, ns: ns(time) }
}

fn stop(stop: library::Stop) -> Stop {
    match stop {
        library::Stop::Fits => Stop::Fits,
        library::Stop::NoProgress => Stop::NoProgress,
        library::Stop::TooManyRounds => Stop::TooManyRounds,
    }
}

/// In nanoseconds; centuries are cut short.
pub(super) fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
