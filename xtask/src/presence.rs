//! Tests that need something of the machine, and whether it had it.
//!
//! They report at their gates (`vellum-presence`). What was not run is listed by name at the end of
//! `cargo xtask test`. A test that did not run although the machine has what it needs, or that has a
//! gate and never came to it, is a failure.

mod gated;
mod judge;
pub(crate) mod listing;
mod machine;

pub(crate) use judge::{Absence, Objection};

use crate::cargo::target;
use crate::failure::Failure;
use std::path::PathBuf;
use vellum_presence::{Report, parse};

/// The file that the tests of this process report to.
pub(crate) fn reports() -> PathBuf {
    target().join(format!("presence-{}", std::process::id()))
}

/// Forgets what was reported so far.
pub(crate) fn forget() -> Result<(), Failure> {
    match std::fs::remove_file(reports()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::File { path: reports(), error })
        }
        _ => Ok(()),
    }
}

/// What the tests of this selection have reported, if any of them have gates.
pub(crate) fn judge(selection: Option<&str>) -> Result<Vec<Absence>, Failure> {
    let reports = read()?;
    forget()?;
    let expected = selection.map_or(Ok(Vec::new()), listing::expected)?;
    let findings = judge::judge(&expected, &reports, machine::has);
    if findings.objections.is_empty() {
        Ok(findings.absences)
    } else {
        Err(Failure::NotRun { objections: findings.objections })
    }
}

fn read() -> Result<Vec<Report>, Failure> {
    match std::fs::read_to_string(reports()) {
        Ok(text) => parse(&text).map_err(Failure::NoReport),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::File { path: reports(), error }),
    }
}

/// Names what was not run, if anything was not.
pub(crate) fn print(absences: &[Absence]) {
    if absences.is_empty() {
        return;
    }
    println!("\nnot run on this machine:");
    for (index, absence) in absences.iter().enumerate() {
        let is_new = index == 0 || absences[index - 1].reason != absence.reason;
        if is_new {
            println!("  {}: {}", absence.need, absence.reason);
        }
        println!("    {}", absence.test);
    }
}

/// A line for each.
pub(crate) fn listed(objections: &[Objection]) -> String {
    objections.iter().map(|objection| format!("  {objection}\n")).collect()
}
