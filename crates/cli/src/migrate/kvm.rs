//! Moving a native guest.

use super::Job;
use crate::args::Migrate;
use crate::failure::Failure;
use crate::identity::Identity;
use crate::interrupt::Interrupt;
use crate::machine::console;
use crate::machine::kvm::{Error, backing, choose, guest, name, proof};
use crate::report::Report;
use crate::show::Show;
use crate::source::Source;
use std::sync::Arc;
use vellum_vmm::{Config, Guest, GuestLog, Machine};

pub(super) fn run(args: &Migrate, show: &Arc<Show>) -> Result<Report, Failure> {
    let interrupt = Interrupt::listen()?;
    let guest = guest(&args.machine.guest, args.machine.memory)?;
    if args.machine.format.is_some() {
        return Err(Error::Format.into());
    }
    let backing = backing(args.machine.page_size, args.machine.memory)?;
    let choice = choose(args.track)?;
    let config = Config {
        backing,
        way: choice.method,
        seed: args.machine.seed,
        ..Config::new(args.machine.memory.bytes(), args.machine.vcpus as usize)
    };
    let proof = proof(guest, args.machine.memory, args.machine.vcpus);
    let show = Arc::clone(show);
    let job = Job { args, show, interrupt, proof, choice: choice.map(name) };
    let (machine, log) = made(&job, &config, guest)?;
    let identity = Identity::kvm(&config);
    job.run(Source { machine: &machine, log, identity, show: &job.show })
}

fn made(job: &Job, config: &Config, guest: Guest) -> Result<(Machine, GuestLog), Error> {
    let (machine, log) = Machine::new(config, &guest.program())
        .map_err(|error| Error::not_built(error, job.args.machine.memory))?;
    machine.set_console(Box::new(console(&job.show)));
    Ok((machine, broken(job.args, log)))
}

#[cfg(not(feature = "breaks"))]
fn broken(_: &Migrate, log: GuestLog) -> GuestLog {
    log
}

#[cfg(feature = "breaks")]
fn broken(args: &Migrate, mut log: GuestLog) -> GuestLog {
    if let Some(bug) = args.broken.and_then(crate::breaks::Name::of_kernel) {
        log.break_with(bug);
    }
    log
}
