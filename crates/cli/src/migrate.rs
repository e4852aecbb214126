//! `vellum migrate`: starts a guest, moves it while it runs, and says whether anything was lost.

mod attempt;
mod verdict;

use crate::args::{Format, Migrate};
use crate::child::Destination;
use crate::destination::console;
use crate::event::Event;
use crate::failure::{End, Failure};
use crate::guest::{Guest, Proof};
use crate::identity::Identity;
use crate::interrupt::Interrupt;
use crate::report::{Report, columns, render};
use crate::show::Show;
use crate::source::Source;
use crate::track::{Choice, choose};
use attempt::Attempts;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use vellum_machine::Logging;
use vellum_machine::machine::{Machine, MachineConfig, Status};
use vellum_machine::walker::WalkedFormat;
use vellum_pte::{Ept, Npt, PAGE_SIZE, Stage2};

/// How often a guest that warms up is looked at.
const TICK: Duration = Duration::from_millis(2);

/// Everything but the machine.
struct Job<'a> {
    args: &'a Migrate,
    show: Arc<Show>,
    interrupt: Interrupt,
    guest: Guest,
    choice: Choice,
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
    let outcome = migrate(args, &show);
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
        format: args.machine.format.name().to_owned(),
        pages: args.machine.memory.bytes() / PAGE_SIZE,
        vcpus: args.machine.vcpus,
        seed: args.machine.seed,
        downtime_asked_ns: verdict::ns(args.downtime),
        ..Report::default()
    }
}

fn migrate(args: &Migrate, show: &Arc<Show>) -> Result<Report, Failure> {
    let job = Job {
        args,
        show: Arc::clone(show),
        interrupt: Interrupt::listen()?,
        guest: Guest::load(&args.machine)?,
        choice: choose(args.track),
    };
    match args.machine.format {
        Format::Ept => job.run::<Ept>(),
        Format::Npt => job.run::<Npt>(),
        Format::Stage2 => job.run::<Stage2>(),
    }
}

fn config(args: &Migrate) -> MachineConfig {
    MachineConfig {
        logging: Logging::of(choose(args.track).method),
        #[cfg(feature = "breaks")]
        broken: args.broken.and_then(crate::breaks::Name::of_tracking),
        ..args.machine.config()
    }
}

impl Job<'_> {
    fn run<F: WalkedFormat>(&self) -> Result<Report, Failure> {
        let config = config(self.args);
        let machine = Machine::<F>::new(&config, &self.guest.image, console(&self.show))
            .map_err(|error| self.args.machine.not_built(error))?;
        let mut child =
            self.args.to.is_none().then(|| Destination::start(self.args.patience)).transpose()?;
        let to = child.as_ref().map(Destination::address).or_else(|| self.args.to.clone());
        let to = to.ok_or(Failure::Silent)?;
        self.announce();
        machine.resume();
        if let Err(reason) = self.warm_up(&machine) {
            return Ok(Report { reason, ..self.report() });
        }
        let identity = Identity::new(&config, self.args.machine.format);
        let source = Source::new(&machine, self.choice.method, identity, &self.show);
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
        let (method, why) = (crate::track::name(method).to_owned(), why.to_owned());
        self.show.say(&Event::Tracking { method, why });
        self.show.say(&Event::Running);
    }

    fn report(&self) -> Report {
        Report {
            method: Some(crate::track::name(self.choice.method).to_owned()),
            method_reason: Some(self.choice.why.to_owned()),
            ..blank(self.args)
        }
    }

    /// Lets the guest get going: what is moved is a guest in the middle of its work.
    fn warm_up<F: WalkedFormat>(&self, machine: &Machine<F>) -> Result<(), String> {
        while !self.is_warm(machine) {
            if let Some((_, reason)) = crate::receive::ended(machine.status()) {
                return Err(format!("{reason}. That was before it could be moved."));
            }
            if self.interrupt.stop_asked() {
                return Err("interrupted before the migration began.".to_owned());
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn is_warm<F: WalkedFormat>(&self, machine: &Machine<F>) -> bool {
        let (retired, passes): (Vec<u64>, Vec<u64>) =
            (machine.instructions().collect(), machine.progress().collect());
        let first_pass = match self.proof() {
            Proof::Passes(_) => Proof::Passes(1),
            other => other,
        };
        machine.status() == Status::Running && first_pass.is_given(&retired, &passes)
    }

    fn proof(&self) -> Proof {
        self.guest.proof(self.args.machine.memory, self.args.machine.vcpus)
    }
}
