//! The kernel's own hypervisor on a processor that is emulated: Debian's kernel, and tests of ours as its
//! first files.

pub(crate) mod arm;
pub(crate) mod programs;
pub(crate) mod svm;
pub(crate) mod vmx;

use super::archive::{Entry, archive};
use super::debian::{Apt, unpacked};
use super::linux::kernel_in;
use crate::failure::Failure;
use crate::tool::Missing;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Such a host, and what it has to meet.
pub(crate) struct Host {
    /// The folder of its packages.
    packages: &'static str,
    /// Which they are: a kernel, busybox, and what programs are linked with.
    choose: fn(&Apt) -> Result<Vec<String>, Failure>,
    /// The kernel's hypervisor, in the order in which its parts are loaded; none where it is built in.
    modules: &'static [Module],
    /// The check that the hypervisor is what it should be,
    processor: &'static str,
    /// and lines of shell that say what it is, and fail if it is not.
    hypervisor: &'static str,
    /// The tests' programs.
    programs: &'static [&'static str],
    /// What is tried with them.
    tried: &'static [Tried],
    /// What the host lacks, as a gate names it: a test has to find everything else.
    lacks: &'static str,
    /// Its emulator.
    start: fn(&Boot<'_>) -> Result<Command, Failure>,
}

/// What an emulator is begun with.
pub(crate) struct Boot<'a> {
    /// The kernel,
    pub(crate) kernel: &'a Path,
    /// and its first files.
    pub(crate) files: &'a Path,
    /// Where what is made for it goes.
    pub(crate) folder: &'a Path,
    /// The file that the serial line is written to.
    pub(crate) serial: &'a Path,
}

/// A part of the kernel.
struct Module {
    name: &'static str,
    /// Where it is in the kernel's own tree.
    path: &'static str,
}

/// A check that one test meets.
struct Tried {
    check: &'static str,
    program: &'static str,
    test: &'static str,
}

const fn tried(check: &'static str, program: &'static str, test: &'static str) -> Tried {
    Tried { check, program, test }
}

/// What the first program is, up to what each host has of its own.
const INIT: &str = include_str!("kvm/init.sh");

/// How it ends. When nobody has the serial line open any more, all that was said has gone out: a machine
/// that is switched off before has not said it.
const END: &str = "echo \"end $met\"\nexec </dev/null >/dev/null 2>&1\npoweroff -f\n";

/// What has to be there before what is in it.
const FOLDERS: [&str; 4] = ["bin", "dev", "modules", "tests"];

/// A kernel's command line: only what ends it is said, so that no line of ours is broken in two.
fn said(own: &str) -> String {
    format!("{own} quiet loglevel=1 panic=-1")
}

impl Host {
    /// What is to be met, in this order.
    pub(crate) fn checks(&self) -> Vec<&'static str> {
        std::iter::once(self.processor).chain(self.tried.iter().map(|tried| tried.check)).collect()
    }

    /// Sees to it that its packages are there.
    pub(crate) fn require(&self, missing: Missing) -> Result<(), Failure> {
        self.at_hand(missing).map(|_| ())
    }

    fn at_hand(&self, missing: Missing) -> Result<PathBuf, Failure> {
        unpacked(self.packages, missing, self.choose)
    }

    /// The machine, with the test programs of the folder `programs`. What is made is put into `folder`.
    pub(crate) fn boot(
        &self,
        programs: &Path,
        folder: &Path,
        serial: &Path,
    ) -> Result<Command, Failure> {
        let system = self.at_hand(Missing::Name)?;
        let files = folder.join("files");
        fs::write(&files, self.first_files(&system, programs)?).map_err(at(&files))?;
        (self.start)(&Boot { kernel: &kernel_in(&system)?, files: &files, folder, serial })
    }

    fn first_files(&self, system: &Path, programs: &Path) -> Result<Vec<u8>, Failure> {
        let mut files = vec![("bin/busybox".to_owned(), system.join("bin/busybox"))];
        if !self.modules.is_empty() {
            let modules = modules(system)?;
            let place = |module: &Module| (module.file(), modules.join(module.path));
            files.extend(self.modules.iter().map(place));
        }
        let program = |name: &&str| (format!("tests/{name}"), programs.join(name));
        files.extend(self.programs.iter().map(program));
        let read =
            files.into_iter().map(|(name, path)| Ok((name, fs::read(&path).map_err(at(&path))?)));
        let read = read.collect::<Result<Vec<_>, Failure>>()?;
        let init = self.init();
        let mut entries = Vec::from(FOLDERS.map(|name| (name, Entry::Folder)));
        entries.push(("dev/console", Entry::Device { major: 5, minor: 1 }));
        entries.push(("init", Entry::Program(init.as_bytes())));
        entries.extend(read.iter().map(|(name, bytes)| (&**name, Entry::Program(bytes))));
        Ok(archive(&entries))
    }

    /// The first program's text. It counts what was met, and ends the machine.
    fn init(&self) -> String {
        let Self { processor, hypervisor, lacks, .. } = self;
        let load = |module: &Module| format!("load {} /{}\n", module.name, module.file());
        let modules: String = self.modules.iter().map(load).collect();
        let begun =
            format!("{INIT}{modules}hypervisor() {{{hypervisor}}}\nprocessor {processor}\n");
        let text = self.tried.iter().fold(begun, |text, Tried { check, program, test }| {
            text + &format!("tried {check} {program} {test} '{lacks}'\n")
        });
        text + END
    }
}

impl Module {
    /// Where the first program finds it.
    fn file(&self) -> String {
        format!("modules/{}.ko", self.name)
    }
}

/// Where the kernel's package has modules: a folder that bears the release's name.
fn modules(system: &Path) -> Result<PathBuf, Failure> {
    Ok(only_folder_in(&system.join("lib/modules"))?.join("kernel"))
}

/// What is alone in `folder`, under a name that is another in each release.
fn only_folder_in(folder: &Path) -> Result<PathBuf, Failure> {
    let mut found = fs::read_dir(folder).map_err(at(folder))?;
    let (first, second) = (found.next(), found.next());
    match (first, second) {
        (Some(only), None) => Ok(only.map_err(at(folder))?.path()),
        (None, _) => Err(at(folder)(ErrorKind::NotFound.into())),
        (Some(_), Some(_)) => Err(at(folder)(ErrorKind::AlreadyExists.into())),
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}
