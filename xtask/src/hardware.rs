//! The small hypervisors, on emulators that nobody here wrote.
//!
//! The library is packaged, the hypervisors in `hypervisors/` are built from the packages, and each
//! machine's emulator runs one of them. What the hypervisor says on its serial line is judged here.

mod archive;
pub(crate) mod arm_toolchain;
mod bochs;
mod build;
mod debian;
mod disk;
#[cfg(test)]
mod documented;
mod emulator;
mod expected;
mod kvm;
mod linux;
mod loader;
mod machine;
mod package;
mod qemu;
mod report;
mod serial;
mod verdict;

pub(crate) use disk::Unbootable;

use crate::cargo::target;
use crate::failure::Failure;
use crate::tool::Missing;
use build::Image;
use machine::Machine;
use package::Packages;
use report::Report;
use serial::Line;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Which machines, and for whom the result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Hardware {
    /// One machine alone.
    #[arg(value_name = "NAME")]
    machine: Option<Machine>,
    /// Fetch what is missing: emulators with apt-get.
    #[arg(long)]
    install: bool,
    /// Print a list of {machine, check, result} to standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

impl Hardware {
    /// All machines, nothing fetched, for people.
    pub(crate) const USUAL: Self = Self { machine: None, install: false, json: false };

    /// Runs the machines, one after the other, and reports.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let machines = self.machines();
        let missing = if self.install { Missing::Install } else { Missing::Name };
        require(&machines, missing)?;
        let reports = prove(&machines)?;
        if self.json {
            println!("{}", report::json(&reports).map_err(Failure::Json)?);
        } else {
            print!("\n{}", report::table(&reports));
        }
        judge(&reports)
    }

    fn machines(self) -> Vec<Machine> {
        self.machine.map_or_else(|| Machine::all().to_vec(), |machine| vec![machine])
    }
}

/// Sees to it that everything is there that the machines need.
pub(crate) fn require_all(missing: Missing) -> Result<(), Failure> {
    require(Machine::all(), missing)
}

fn require(machines: &[Machine], missing: Missing) -> Result<(), Failure> {
    machines.iter().try_for_each(|machine| machine.require(missing))
}

fn prove(machines: &[Machine]) -> Result<Vec<Report>, Failure> {
    let folder = target().join("hardware");
    let _alone = alone_in(&folder)?;
    let packages = Packages::make(&folder)?;
    build::build(&folder, &packages, &images(machines))?;
    machines.iter().map(|machine| run(*machine, &folder)).collect()
}

/// Keeps others out that would write to the same serial lines and disks, as long as the file is open.
fn alone_in(folder: &Path) -> Result<File, Failure> {
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::HardwareBusy { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(Failure::File { path, error }),
    }
}

/// Each image once: several machines may run the same.
fn images(machines: &[Machine]) -> Vec<Image> {
    let mut images: Vec<Image> = machines.iter().map(|machine| machine.image()).collect();
    images.sort_unstable();
    images.dedup();
    images
}

fn run(machine: Machine, builds: &Path) -> Result<Report, Failure> {
    let name = machine.name();
    let folder: PathBuf = builds.join("runs").join(&name);
    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    let serial = folder.join("serial");
    let command = machine.start(&machine.image().path(builds), &folder, &serial)?;
    eprintln!(
        "{name}: {} checks expected, serial line in {}",
        machine.checks().len(),
        serial.display()
    );
    let hear = |line: &Line| eprintln!("  {:>6.2} s  {}", line.at.as_secs_f64(), line.text);
    let transcript = emulator::run(&command, &serial, machine.patience(), hear)?;
    let findings = verdict::judge(&machine.checks(), &transcript);
    Ok(Report { machine, findings, wall: transcript.wall })
}

fn judge(reports: &[Report]) -> Result<(), Failure> {
    match reports.iter().map(Report::objections).sum() {
        0 => Ok(()),
        objections => Err(Failure::NotProven { objections }),
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}

#[cfg(test)]
mod tests {
    use super::{Hardware, Machine};
    use std::collections::BTreeSet;

    #[test]
    fn each_machine_has_checks_and_none_twice() {
        for machine in Machine::all() {
            let checks = machine.checks();
            let distinct: BTreeSet<_> = checks.iter().collect();
            assert!(!checks.is_empty(), "{} proves nothing", machine.name());
            assert_eq!(distinct.len(), checks.len(), "{} expects a check twice", machine.name());
        }
    }

    #[test]
    fn whoever_names_none_means_all() {
        assert_eq!(Hardware::USUAL.machines(), Machine::all());
    }
}
