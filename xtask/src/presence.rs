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
pub(crate) use listing::Selection;

use crate::cargo::target;
use crate::failure::Failure;
use std::path::PathBuf;
use vellum_presence::{Report, parse};

/// The file that the tests of this process report to.
pub(crate) fn reports() -> PathBuf {
    target().join(format!("presence-{}", std::process::id()))
}

/// What the tests report from its making on. Dropped, it leaves no file.
pub(crate) struct Reports(());

impl Reports {
    /// Forgets what was reported so far.
    pub(crate) fn begin() -> Result<Self, Failure> {
        forget().map(Self)
    }

    /// What the tests of these selections have reported, if any of them have gates.
    pub(crate) fn judge(self, selections: &[Selection]) -> Result<Vec<Absence>, Failure> {
        let reports = read()?;
        let mut expected = Vec::new();
        let mut objections = Vec::new();
        for selection in selections {
            let found = selection.expected()?;
            expected.extend(found.names);
            objections.extend(found.vain.into_iter().map(Objection::Nothing));
        }
        let findings = judge::judge(&expected, &reports, machine::has);
        objections.extend(findings.objections);
        if objections.is_empty() {
            Ok(findings.absences)
        } else {
            Err(Failure::NotRun { objections })
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        // One that stays is forgotten by whoever has the same number next.
        let _ = forget();
    }
}

fn forget() -> Result<(), Failure> {
    match std::fs::remove_file(reports()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::File { path: reports(), error })
        }
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::{Reports, reports};
    use crate::failure::Failure;

    fn fails_after_a_report() -> Result<(), Failure> {
        let _reports = Reports::begin()?;
        std::fs::write(reports(), "kvm").expect("the target folder is there");
        Err(Failure::NoReport("kvm".to_owned()))
    }

    #[test]
    fn a_proof_that_fails_leaves_no_file_of_reports() {
        assert!(fails_after_a_report().is_err());
        assert!(!reports().exists());
    }
}
