//! The proofs.

use crate::cargo::{cargo, run, target, tests};
use crate::failure::Failure;
use crate::hardware::Hardware;
use crate::hardware::arm_toolchain::{self, ArmToolchain};
use crate::presence::{Absence, Reports, Selection};
use crate::tool::Missing;
use crate::{deny, freestanding, hypervisors, tool};

/// One proof, and the name it is run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum Step {
    /// The source is formatted.
    Fmt,
    /// No lint has anything to say, in any target.
    Clippy,
    /// Unit, integration and documentation tests of every crate.
    Units,
    /// Every backend, held to the naive oracles.
    Conformance,
    /// The shipped lock-free functions under every interleaving that loom finds.
    Loom,
    /// The library runs where there is no std and no libc.
    Freestanding,
    /// Small hypervisors on the packaged library, on emulated processors of every kind.
    Hardware(Hardware),
    /// Every deliberate bug makes a migration, or a cell of the failure matrix, fail.
    Breaks,
    /// Every phase of a migration against everything that can go wrong: no page lost, never two guests.
    Matrix(Runs),
    /// The documentation builds and no link in it is broken.
    Docs,
    /// Licences, sources and duplicate versions of what is linked in.
    Deny,
}

/// How thorough a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Runs {
    /// How often each failure strikes in each phase.
    #[arg(long, value_name = "N", default_value_t = Self::USUAL.runs)]
    runs: u32,
}

impl Runs {
    const USUAL: Self = Self { runs: 3 };
}

impl Step {
    /// All steps, cheapest objections first.
    pub(crate) const ALL: [Self; 11] = [
        Self::Fmt,
        Self::Clippy,
        Self::Deny,
        Self::Units,
        Self::Conformance,
        Self::Loom,
        Self::Freestanding,
        Self::Hardware(Hardware::USUAL),
        Self::Matrix(Runs::USUAL),
        Self::Breaks,
        Self::Docs,
    ];

    /// What it is called on the command line.
    pub(crate) fn name(self) -> String {
        let spelt = format!("{self:?}").to_lowercase();
        spelt.split('(').next().unwrap_or_default().to_owned()
    }

    /// What it proves.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Fmt => "the source is formatted",
            Self::Clippy => "no lint has anything to say",
            Self::Units => "unit, integration and documentation tests",
            Self::Conformance => "every backend, held to the naive oracles",
            Self::Loom => "the shipped lock-free functions under loom",
            Self::Freestanding => "the library without std and libc",
            Self::Hardware(_) => "small hypervisors on emulated processors",
            Self::Breaks => "every deliberate bug is caught",
            Self::Matrix(_) => "every phase of a migration against every failure",
            Self::Docs => "the documentation builds, links included",
            Self::Deny => "licences, sources, duplicate versions",
        }
    }

    /// Runs it. What it could not show on this machine; or it fails, also where that is not so.
    pub(crate) fn run(self) -> Result<Vec<Absence>, Failure> {
        let reports = Reports::begin()?;
        self.prove()?;
        reports.judge(self.selections())
    }

    /// The tests that it runs, where some of them have a gate.
    fn selections(self) -> &'static [Selection] {
        match self {
            Self::Units => const { &[Selection::all(UNITS)] },
            Self::Conformance => const { &[Selection::all(CONFORMANCE)] },
            Self::Breaks => const { &[KERNEL_BREAKS, Selection::all(BREAKS)] },
            _ => &[],
        }
    }

    fn prove(self) -> Result<(), Failure> {
        match self {
            Self::Fmt => fmt(),
            Self::Clippy => clippy(),
            Self::Units => units(),
            Self::Conformance => run(tests(&format!("test --locked {CONFORMANCE}"))),
            Self::Loom => loom(),
            Self::Freestanding => freestanding::run(),
            Self::Hardware(hardware) => hardware.run(),
            Self::Breaks => breaks(),
            Self::Matrix(runs) => matrix(runs),
            Self::Docs => docs(),
            Self::Deny => deny::run(tool::Missing::Name),
        }
    }
}

fn fmt() -> Result<(), Failure> {
    run(cargo("fmt --all --check"))?;
    hypervisors::fmt()
}

/// The deliberate bugs' command line is switched on in a second go.
fn clippy() -> Result<(), Failure> {
    run(cargo("clippy --locked --workspace --all-targets -- -D warnings"))?;
    run(cargo("clippy --locked -p vellum-cli --features breaks --all-targets -- -D warnings"))?;
    clippy_for_arm()?;
    hypervisors::clippy()
}

/// What is tested on Arm's machine and nowhere else.
fn clippy_for_arm() -> Result<(), Failure> {
    let mut lints = cargo("check --locked -p vellum-kvm --features breaks --all-targets --target");
    lints.arg(arm_toolchain::TARGET);
    lints.env("CARGO_TARGET_DIR", target().join("arm"));
    ArmToolchain::at_hand(Missing::Name)?.lint_with(&mut lints);
    run(lints)
}

/// Without the conformance suite: it switches the breaks on, and what is tested here is what ships.
const UNITS: &str = "--workspace --exclude vellum-conformance";

const CONFORMANCE: &str = "-p vellum-conformance";

fn units() -> Result<(), Failure> {
    run(tests(&format!("test --locked {UNITS}")))
}

/// The kernel's log is held to rounds that are known to the page.
const KERNEL_BREAKS: Selection =
    Selection { build: "-p vellum-kvm --features breaks --test ways", within: "breaks::" };

const BREAKS: &str = "--release -p vellum-cli --features breaks --test breaks";

/// Those of the command line one at a time: each is two processes with a gibibyte each.
fn breaks() -> Result<(), Failure> {
    let Selection { build, within } = KERNEL_BREAKS;
    run(tests(&format!("test --locked {build} {within}")))?;
    run(tests(&format!("test --locked {BREAKS} -- --test-threads=1")))
}

fn matrix(Runs { runs }: Runs) -> Result<(), Failure> {
    let test = "test --locked --release -p vellum-cli --test matrix --";
    run(tests(&format!("{test} --runs {runs}")))
}

/// In a target folder of its own: `--cfg loom` would rebuild everything at every change of step.
fn loom() -> Result<(), Failure> {
    let under_loom = |arguments| {
        let mut command = cargo(arguments);
        command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target().join("loom"));
        run(command)
    };
    under_loom("test --locked --release -p vellum-memory --lib loom")?;
    under_loom("test --locked --release -p vellum-mmu --features breaks --lib --test loom")
}

fn docs() -> Result<(), Failure> {
    let mut command = cargo("doc --locked --workspace --no-deps");
    command.env("RUSTDOCFLAGS", "-D warnings");
    run(command)
}
