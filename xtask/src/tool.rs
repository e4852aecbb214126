//! System packages that the proofs need beyond Rust.

use crate::cargo::{run_aside, starts};
use crate::failure::Failure;
use crate::{deny, hardware};
use std::path::Path;
use std::process::Command;

/// What to do about something that is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Name it and fail.
    Name,
    /// Fetch it.
    Install,
}

/// A system package, and how its presence shows on any distribution.
struct Tool {
    package: &'static str,
    sign: Sign,
}

enum Sign {
    /// The program answers `--version`.
    Program(&'static str),
    /// One of the files exists.
    File(&'static [&'static str]),
}

/// Guests are built by a riscv gcc and run under QEMU as well, so that our interpreter and two that
/// are not ours have to agree. The small hypervisors run on processors that QEMU and Bochs play.
const TOOLS: &[Tool] = &[
    Tool { package: "gcc-riscv64-linux-gnu", sign: Sign::Program("riscv64-linux-gnu-gcc") },
    Tool { package: "qemu-system-misc", sign: Sign::Program("qemu-system-riscv64") },
    Tool {
        package: "opensbi",
        sign: Sign::File(&[
            "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin",
            "/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin",
        ]),
    },
    Tool { package: "qemu-system-x86", sign: Sign::Program("qemu-system-x86_64") },
    Tool { package: "qemu-system-arm", sign: Sign::Program("qemu-system-aarch64") },
    Tool { package: "bochsbios", sign: Sign::File(&["/usr/share/bochs/BIOS-bochs-latest"]) },
    Tool { package: "vgabios", sign: Sign::File(&["/usr/share/vgabios/vgabios.bin"]) },
    Tool { package: "bochs", sign: Sign::File(&["/usr/bin/bochs", "/usr/local/bin/bochs"]) },
    Tool {
        package: "bochs-term",
        sign: Sign::File(&[
            "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so",
            "/usr/lib/bochs/plugins/libbx_term_gui.so",
        ]),
    },
];

impl Tool {
    fn is_present(&self) -> bool {
        match self.sign {
            Sign::Program(name) => starts(name, "--version"),
            Sign::File(paths) => paths.iter().any(|path| Path::new(path).exists()),
        }
    }
}

/// Sees to it that every tool is there, before an hour of building ends in its absence.
pub(crate) fn require_all(missing: Missing) -> Result<(), Failure> {
    let packages: Vec<&str> = TOOLS.iter().map(|tool| tool.package).collect();
    require(&packages, missing)?;
    hardware::require_all(missing)?;
    deny::require(missing)
}

/// Sees to it that some of them are there.
pub(crate) fn require(packages: &[&str], missing: Missing) -> Result<(), Failure> {
    let absent = absent(packages);
    match missing {
        _ if absent.is_empty() => Ok(()),
        Missing::Name => Err(Failure::Packages { names: absent.join(" ") }),
        Missing::Install => install(&absent).and_then(|()| require(packages, Missing::Name)),
    }
}

fn absent(packages: &[&str]) -> Vec<&'static str> {
    let wanted = TOOLS.iter().filter(|tool| packages.contains(&tool.package));
    wanted.filter(|tool| !tool.is_present()).map(|tool| tool.package).collect()
}

fn install(packages: &[&str]) -> Result<(), Failure> {
    run_aside(apt_get(&["update"]))?;
    run_aside(apt_get(&[&["install", "--yes", "--no-install-recommends"], packages].concat()))
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
