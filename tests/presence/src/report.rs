//! A line of the reports.

use crate::Need;
use std::fmt;

/// What a test said at its gate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Report {
    /// The package that the test is of.
    pub package: String,
    /// The name of the test's program, without its hash.
    pub binary: String,
    /// The test's name, as the harness lists it.
    pub test: String,
    /// What it needs.
    pub need: Need,
    /// Whether it ran.
    pub outcome: Outcome,
}

/// Whether a test, or the part of it that has a need, ran.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// It did.
    Ran,
    /// It did not, for this reason.
    NotRun(String),
}

const RAN: &str = "ran";
const NOT_RUN: &str = "not-run";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { package, binary, test, need, outcome } = self;
        let (said, reason) = match outcome {
            Outcome::Ran => (RAN, ""),
            Outcome::NotRun(reason) => (NOT_RUN, reason.as_str()),
        };
        let fields = [package, binary, test, &need.to_string(), said, reason];
        f.write_str(&fields.map(flat).join("\t"))
    }
}

/// In one line, and without the character between fields.
fn flat(text: &str) -> String {
    text.split(['\t', '\n', '\r']).collect::<Vec<_>>().join(" ")
}

/// The reports of a file, or the first line that is none.
///
/// # Errors
/// That line.
pub fn parse(text: &str) -> Result<Vec<Report>, String> {
    text.lines().map(|line| of_line(line).ok_or_else(|| line.to_owned())).collect()
}

fn of_line(line: &str) -> Option<Report> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [package, binary, test, need, said, reason] = fields.try_into().ok()?;
    let outcome = match said {
        RAN => Outcome::Ran,
        NOT_RUN => Outcome::NotRun(reason.to_owned()),
        _ => return None,
    };
    let [package, binary, test] = [package, binary, test].map(str::to_owned);
    Some(Report { package, binary, test, need: need.parse().ok()?, outcome })
}
