//! Moving a guest of the software machine.

use super::Job;
use crate::args::{Format, Migrate};
use crate::failure::Failure;
use crate::guest::Guest;
use crate::identity::Identity;
use crate::interrupt::Interrupt;
use crate::machine::console;
use crate::report::Report;
use crate::show::Show;
use crate::source::Source;
use crate::track::{choose, name};
use std::sync::Arc;
use vellum_machine::Logging;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::machine::{Machine, MachineConfig};
use vellum_machine::walker::WalkedFormat;
use vellum_pte::{Ept, Npt, Stage2};

pub(super) fn run(args: &Migrate, show: &Arc<Show>) -> Result<Report, Failure> {
    let interrupt = Interrupt::listen()?;
    let guest = Guest::load(&args.machine)?;
    let choice = choose(args.track);
    let proof = guest.proof(args.machine.memory, args.machine.vcpus);
    let show = Arc::clone(show);
    let job = Job { args, show, interrupt, proof, choice: choice.map(name) };
    match args.machine.format() {
        Format::Ept => on::<Ept>(&job, &guest, choice.method),
        Format::Npt => on::<Npt>(&job, &guest, choice.method),
        Format::Stage2 => on::<Stage2>(&job, &guest, choice.method),
    }
}

fn on<F: WalkedFormat>(job: &Job, guest: &Guest, method: Track) -> Result<Report, Failure> {
    let config = config(job.args, method)?;
    let machine = Machine::<F>::new(&config, &guest.image, Box::new(console(&job.show)))
        .map_err(|error| job.args.machine.not_built(error))?;
    let identity = Identity::software(&config, job.args.machine.format());
    let log = BoardLog::new(machine.board(), method);
    job.run(Source { machine: &machine, log, identity, show: &job.show })
}

fn config(args: &Migrate, method: Track) -> Result<MachineConfig, Failure> {
    Ok(MachineConfig {
        logging: Logging::of(method),
        #[cfg(feature = "breaks")]
        broken: args.broken.and_then(crate::breaks::Name::of_tracking),
        ..args.machine.config()?
    })
}
