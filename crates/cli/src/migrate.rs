//! `vellum migrate`: starts a guest, moves it while it runs, and says whether anything was lost.

mod attempt;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kvm;
mod software;
mod verdict;

use crate::args::{Migrate, Runs};
use crate::child::Destination;
use crate::event::{Ended, Event};
use crate::failure::{End, Failure};
use crate::guest::Proof;
use crate::interrupt::Interrupt;
use crate::machine::Movable;
use crate::report::{Report, columns, render};
use crate::show::Show;
use crate::source::Source;
use crate::track::Choice;
use attempt::Attempts;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use vellum_memory::DirtySource;
use vellum_pte::PAGE_SIZE;

/// How often a guest that warms up is looked at.
const TICK: Duration = Duration::from_millis(2);

/// In place of the module, where there are no native guests.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod kvm {
    pub(super) fn run(
        _: &super::Migrate,
        _: &super::Arc<super::Show>,
    ) -> Result<super::Report, super::Failure> {
        Err(crate::machine::kvm::Error::NotHere.into())
    }
}

/// Why a migration was not begun, though the guest ran.
#[derive(Debug, thiserror::Error)]
enum NotBegun {
    /// The guest had ended.
    #[error("{1}. That was before it could be moved.")]
    Ended(Ended, String),
    /// Somebody stopped it.
    #[error("interrupted before the migration began.")]
    Interrupted,
}

impl NotBegun {
    fn ended(&self) -> Option<Ended> {
        match self {
            Self::Ended(how, _) => Some(*how),
            Self::Interrupted => None,
        }
    }
}

/// Everything but the machine.
struct Job<'a> {
    args: &'a Migrate,
    show: Arc<Show>,
    interrupt: Interrupt,
    /// What must be seen of the guest at the destination.
    proof: Proof,
    choice: Choice<&'static str>,
}

/// Moves a guest, prints what came of it and returns how that ends the process.
pub(crate) fn run(args: &Migrate) -> End {
    #[cfg(feature = "breaks")]
    let args = &crate::breaks::arranged(args);
    let show = Arc::new(match (args.events, args.json) {
        (true, _) => Show::EventsErr,
        (false, true) => Show::Nobody,
        (false, false) => Show::person(),
    });
    let outcome = match args.runs {
        Runs::Software => software::run(args, &show),
        Runs::Kvm => kvm::run(args, &show),
    };
    show.end();
    match outcome {
        Ok(report) => tell(args, &report, if report.verified { End::Done } else { End::Failed }),
        Err(failure) => tell_failure(args, &failure),
    }
}

fn tell(args: &Migrate, report: &Report, end: End) -> End {
    let text = if args.json { report.json() + "\n" } else { render(report, columns()) };
    // A reader that has gone away does not change what happened.
    let _ = std::io::stdout().write_all(text.as_bytes());
    end
}

fn tell_failure(args: &Migrate, failure: &Failure) -> End {
    if args.json {
        let report = Report { reason: failure.to_string(), ..blank(args) };
        return tell(args, &report, End::NotStarted);
    }
    eprintln!("vellum: {failure}");
    End::NotStarted
}

/// What is known before anything has begun.
fn blank(args: &Migrate) -> Report {
    Report {
        guest: args.machine.guest.clone(),
        machine: Some(args.runs),
        format: (args.runs == Runs::Software).then(|| args.machine.format().name()),
        pages: args.machine.memory.bytes() / PAGE_SIZE,
        vcpus: args.machine.vcpus,
        seed: args.machine.seed,
        downtime_asked_ns: verdict::ns(args.downtime),
        ..Report::default()
    }
}

impl Job<'_> {
    /// Moves the guest of `source`, which stands.
    fn run<M: Movable, L: DirtySource>(&self, source: Source<'_, M, L>) -> Result<Report, Failure> {
        let mut child =
            self.args.to.is_none().then(|| Destination::start(self.args.patience)).transpose()?;
        let to = child.as_ref().map(Destination::address).or_else(|| self.args.to.clone());
        let to = to.ok_or(Failure::Silent)?;
        self.announce();
        source.machine.resume();
        if let Err(error) = self.warm_up(source.machine) {
            return Ok(Report { reason: error.to_string(), ended: error.ended(), ..self.report() });
        }
        let attempts = Attempts {
            to: &to,
            downtime: self.args.downtime,
            patience: self.args.patience,
            count: self.args.attempts,
            interrupt: &self.interrupt,
            show: &self.show,
            #[cfg(feature = "breaks")]
            broken: self.args.broken,
        };
        let ending = attempts.run(source, child.as_mut());
        Ok(self.judge(ending, child.as_mut()))
    }

    fn announce(&self) {
        let Choice { method, why } = self.choice;
        let (method, why) = (method.to_owned(), why.to_owned());
        self.show.say(&Event::Tracking { method, why });
        self.show.say(&Event::Running);
    }

    fn report(&self) -> Report {
        Report {
            method: Some(self.choice.method.to_owned()),
            method_reason: Some(self.choice.why.to_owned()),
            ..blank(self.args)
        }
    }

    /// Lets the guest get going: what is moved is a guest in the middle of its work.
    fn warm_up(&self, machine: &impl Movable) -> Result<(), NotBegun> {
        loop {
            if let Some((how, reason)) = machine.ended() {
                return Err(NotBegun::Ended(how, reason));
            }
            if self.proof.of_warmth().is_given(&machine.life()) {
                return Ok(());
            }
            if self.interrupt.stop_asked() {
                return Err(NotBegun::Interrupted);
            }
            std::thread::sleep(TICK);
        }
    }
}
