//! What a run's serial output is worth.
//!
//! A hypervisor prints `check NAME` before each check and `met NAME: COUNTS` after it, `failed: WHY`
//! if it comes to that, and `end N` when it has run N checks. A run has passed if every check that
//! was expected was met, no other was there, and the end was reached: a hang, a triple fault and a
//! check that was left out are all failures.

use super::emulator::{Ending, Transcript};
use super::serial::Line;
use std::collections::BTreeSet;
use std::time::Duration;

/// One row of the report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// The check's name, or [`THE_END`].
    pub(crate) check: String,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// How long it took.
    pub(crate) wall: Duration,
}

/// What became of a check.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Outcome {
    /// It was met.
    #[error("met")]
    Met,
    /// The hypervisor says that it was not.
    #[error("failed: {0}")]
    Failed(String),
    /// It had begun when the emulator had to be ended.
    #[error("hung")]
    Hung,
    /// It had begun when the emulator ended, without a word.
    #[error("the machine died")]
    Died,
    /// It was not run.
    #[error("missing")]
    Missing,
    /// It was met, and is not one that this machine is expected to meet (again).
    #[error("not expected")]
    NotExpected,
    /// The hypervisor has not said that it was done.
    #[error("not reached")]
    NotReached,
    /// The hypervisor counts other checks than were seen.
    #[error("{said} checks were run, it says, and {seen} were seen")]
    Miscounted {
        /// By it.
        said: String,
        /// Here.
        seen: usize,
    },
}

/// Stands for the end of a run among its checks, if something is wrong with that.
pub(crate) const THE_END: &str = "the end";

/// What happened to each check of `expected`, and to others, in the order of the run.
pub(crate) fn judge(expected: &[&str], transcript: &Transcript) -> Vec<Finding> {
    let mut run = Run { expected: expected.iter().copied().collect(), ..Run::default() };
    for line in &transcript.lines {
        run.hear(line);
    }
    run.end(expected, transcript)
}

#[derive(Default)]
struct Run<'a> {
    /// Those that were not met so far.
    expected: BTreeSet<&'a str>,
    /// The one under way, and when it began.
    begun: Option<(&'a str, Duration)>,
    met: usize,
    said: Option<&'a str>,
    findings: Vec<Finding>,
}

impl<'a> Run<'a> {
    fn hear(&mut self, Line { text, at }: &'a Line) {
        if let Some(check) = text.strip_prefix("check ") {
            self.begun = Some((check, *at));
        } else if let Some(met) = text.strip_prefix("met ") {
            self.hear_met(met.split(':').next().unwrap_or(met), *at);
        } else if let Some(why) = text.strip_prefix("failed: ") {
            self.stop(Outcome::Failed(why.to_owned()), *at);
        } else if let Some(count) = text.strip_prefix("end ") {
            self.said = Some(count);
        }
    }

    /// Only what has begun can be met.
    fn hear_met(&mut self, check: &'a str, at: Duration) {
        if self.begun.is_some_and(|(begun, _)| begun == check) {
            self.met += 1;
            let expected = self.expected.remove(check);
            self.stop(if expected { Outcome::Met } else { Outcome::NotExpected }, at);
        }
    }

    /// The check under way has come to its end, or the run has.
    fn stop(&mut self, outcome: Outcome, at: Duration) {
        let (check, begun) = self.begun.take().unwrap_or((THE_END, at));
        self.expected.remove(check);
        let wall = at.saturating_sub(begun);
        self.findings.push(Finding { check: check.to_owned(), outcome, wall });
    }

    fn end(mut self, expected: &[&str], transcript: &Transcript) -> Vec<Finding> {
        match (transcript.ending, self.begun) {
            (Ending::Hung, _) => self.stop(Outcome::Hung, transcript.wall),
            (Ending::Left, Some(_)) => self.stop(Outcome::Died, transcript.wall),
            (Ending::Left, None) => {}
        }
        for check in expected.iter().filter(|check| self.expected.contains(*check)) {
            self.findings.push(finding(check, Outcome::Missing));
        }
        let miscounted = self.count().err();
        self.findings.extend(miscounted.map(|outcome| finding(THE_END, outcome)));
        self.findings
    }

    /// What the hypervisor counts is what was seen.
    fn count(&self) -> Result<(), Outcome> {
        let said = self.said.ok_or(Outcome::NotReached)?;
        let seen = self.met;
        let agreed = said.parse() == Ok(seen);
        let miscounted = || Outcome::Miscounted { said: said.to_owned(), seen };
        if agreed { Ok(()) } else { Err(miscounted()) }
    }
}

fn finding(check: &str, outcome: Outcome) -> Finding {
    Finding { check: check.to_owned(), outcome, wall: Duration::ZERO }
}

#[cfg(test)]
mod tests;
