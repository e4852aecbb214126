//! `cargo deny`: what may be linked in.

use crate::cargo::{cargo, starts, target};
use crate::failure::Failure;
use crate::tool::Missing;
use std::path::PathBuf;
use std::process::Command;

/// Built without optimisation, it is there within a minute on two cores.
const VERSION: &str = "0.20.2";

/// Checks licences, sources and duplicate versions. Advisories need the network: `cargo deny check`
/// by hand.
pub(crate) fn run(missing: Missing) -> Result<(), Failure> {
    require(missing)?;
    let mut command = Command::new(installed().ok_or(Failure::NoCargoDeny)?);
    command.args("--locked check --deny warnings bans licenses sources".split_whitespace());
    command.current_dir(crate::cargo::root());
    crate::cargo::run(command)
}

/// Sees to it that `cargo deny` is there.
pub(crate) fn require(missing: Missing) -> Result<(), Failure> {
    match (installed(), missing) {
        (Some(_), _) => Ok(()),
        (None, Missing::Name) => Err(Failure::NoCargoDeny),
        (None, Missing::Install) => install(),
    }
}

fn install() -> Result<(), Failure> {
    let mut command = cargo("install --locked --debug cargo-deny --version");
    command.args([VERSION, "--root"]).arg(tools());
    command.env("CARGO_TARGET_DIR", tools().join("build"));
    crate::cargo::run(command)
}

/// The person's own, or ours.
fn installed() -> Option<PathBuf> {
    let ours = tools().join("bin/cargo-deny");
    let theirs = PathBuf::from("cargo-deny");
    [theirs, ours].into_iter().find(|path| starts(&path.to_string_lossy(), "--version"))
}

fn tools() -> PathBuf {
    target().join("tools")
}
