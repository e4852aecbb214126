//! What the machines have shown: a table for people, a list for programs.

use super::machine::Machine;
use super::verdict::{Finding, Outcome};
use std::time::Duration;

/// One machine's run.
pub(crate) struct Report {
    /// Which.
    pub(crate) machine: Machine,
    /// Its checks.
    pub(crate) findings: Vec<Finding>,
    /// How long it took in all.
    pub(crate) wall: Duration,
}

/// A row for programs.
#[derive(serde::Serialize)]
struct Row<'a> {
    machine: String,
    check: &'a str,
    result: String,
}

impl Report {
    /// How many checks were not met.
    pub(crate) fn objections(&self) -> usize {
        self.findings.iter().filter(|finding| finding.outcome != Outcome::Met).count()
    }
}

/// Machine, check, result, wall time.
pub(crate) fn table(reports: &[Report]) -> String {
    let mut text = row("machine", "check", "result", "wall time");
    for report in reports {
        let name = report.machine.name();
        for Finding { check, outcome, wall } in &report.findings {
            text += &row(&name, check, &outcome.to_string(), &seconds(*wall));
        }
        text += &row(&name, "all of it", &summary(report), &seconds(report.wall));
    }
    text
}

/// `[{"machine": ..., "check": ..., "result": ...}]`.
pub(crate) fn json(reports: &[Report]) -> serde_json::Result<String> {
    let rows = reports.iter().flat_map(|report| {
        let row = |finding| json_row(report.machine, finding);
        report.findings.iter().map(row)
    });
    serde_json::to_string_pretty(&rows.collect::<Vec<_>>())
}

fn json_row(machine: Machine, Finding { check, outcome, .. }: &Finding) -> Row<'_> {
    Row { machine: machine.name(), check, result: outcome.to_string() }
}

fn summary(report: &Report) -> String {
    match report.objections() {
        0 => format!("{} met", report.findings.len()),
        bad => format!("{bad} NOT MET"),
    }
}

fn row(machine: &str, check: &str, result: &str, wall: &str) -> String {
    format!("{machine:<20}{check:<36}{result:<16}{wall:>10}\n")
}

fn seconds(wall: Duration) -> String {
    format!("{:.2} s", wall.as_secs_f64())
}
