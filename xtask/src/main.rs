//! Everything that CI runs, as commands that a person can run.
//!
//! `cargo xtask test` is every proof, one [`Step`] after the other; each step is a command of its
//! own as well.

mod cargo;
mod deny;
mod failure;
mod freestanding;
mod hardware;
mod hypervisors;
mod presence;
mod step;
mod suite;
mod tool;

use clap::{Args, Parser, Subcommand};
use failure::Failure;
use hardware::arm_toolchain::ArmToolchain;
use std::process::ExitCode;
use step::Step;

/// Vellum's developer tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every proof, in turn; stops at the first that fails.
    Test(Fetch),
    /// Name the system packages that the proofs need and that are missing.
    Packages(Fetch),
    /// The variables that have `cargo` build for Arm, for a shell's `eval`.
    ArmToolchain(Fetch),
    #[command(flatten)]
    Step(Step),
}

#[derive(Args)]
struct Fetch {
    /// Fetch what is missing: system packages with apt-get, cargo-deny with cargo.
    #[arg(long)]
    install: bool,
}

impl Fetch {
    fn policy(&self) -> tool::Missing {
        if self.install { tool::Missing::Install } else { tool::Missing::Name }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Test(fetch) => return suite::run(fetch.policy()),
        Task::Packages(fetch) => tool::require_all(fetch.policy()),
        Task::ArmToolchain(fetch) => arm_toolchain(fetch.policy()),
        Task::Step(step) => step.run().map(|absences| presence::print(&absences)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arm_toolchain(missing: tool::Missing) -> Result<(), Failure> {
    println!("{}", ArmToolchain::at_hand(missing)?.exports());
    Ok(())
}
