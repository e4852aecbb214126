//! What a benchmark found.

use super::sample::Sample;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One benchmark's findings.
#[derive(Debug, Serialize)]
pub(crate) struct BenchResult {
    name: &'static str,
    parameters: BTreeMap<&'static str, u64>,
    machine: Machine,
    #[serde(serialize_with = "as_map")]
    samples: Vec<(String, Sample)>,
    #[serde(serialize_with = "as_map")]
    ratios: Vec<(String, f64)>,
    marks: Vec<Mark>,
    /// What this machine cannot do, and why.
    #[serde(serialize_with = "as_map")]
    absent: Vec<(String, String)>,
}

/// An object, in the order in which things were measured.
fn as_map<T: Serialize, S: Serializer>(
    pairs: &[(String, T)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(label, value)| (label, value)))
}

/// Where it ran.
#[derive(Debug, Serialize)]
struct Machine {
    processors: usize,
    model: String,
}

/// What was hoped for.
#[derive(Debug, Serialize)]
struct Mark {
    name: String,
    target: String,
    measured: f64,
    met: bool,
}

/// What a measured number is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// It should be so much or more.
    AtLeast(f64),
    /// It should be so much or less.
    AtMost(f64),
}

impl Target {
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(bound) => measured >= bound,
            Self::AtMost(bound) => measured <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
        }
    }
}

impl BenchResult {
    /// Of the benchmark `name`, with nothing found yet.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            parameters: BTreeMap::new(),
            machine: Machine::here(),
            samples: Vec::new(),
            ratios: Vec::new(),
            marks: Vec::new(),
            absent: Vec::new(),
        }
    }

    /// Says what was measured on.
    pub(crate) fn parameter(&mut self, name: &'static str, value: u64) {
        self.parameters.insert(name, value);
    }

    /// Adds times, or memory.
    pub(crate) fn sample(&mut self, label: impl Into<String>, sample: Sample) {
        self.samples.push((label.into(), sample));
    }

    /// Adds a ratio.
    pub(crate) fn ratio(&mut self, label: impl Into<String>, ratio: f64) {
        self.ratios.push((label.into(), ratio));
    }

    /// Holds `measured` to a mark.
    pub(crate) fn mark(&mut self, name: impl Into<String>, target: Target, measured: f64) {
        let met = target.is_met(measured);
        self.marks.push(Mark { name: name.into(), target: target.text(), measured, met });
    }

    /// Says what could not be measured here, and why.
    pub(crate) fn absent(&mut self, what: impl Into<String>, why: &impl ToString) {
        self.absent.push((what.into(), why.to_string()));
    }

    /// For a program.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// For a person.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{} on {} ({} processors)\n",
            self.name, self.machine.model, self.machine.processors
        );
        for (name, value) in &self.parameters {
            let _ = writeln!(text, "  {name} = {value}");
        }
        text += &self.samples_table();
        text += "\none against the other\n";
        for (label, ratio) in &self.ratios {
            let _ = writeln!(text, "{label:<44} {ratio:>10.2} x");
        }
        text += "\nmarks\n";
        for mark in &self.marks {
            let verdict = if mark.met { "met" } else { "MISSED" };
            let _ = writeln!(
                text,
                "{:<44} {:>10.2}   {} {verdict}",
                mark.name, mark.measured, mark.target
            );
        }
        for (what, why) in &self.absent {
            let _ = writeln!(text, "\nnot measured: {what}: {why}");
        }
        text
    }

    fn samples_table(&self) -> String {
        let mut text = format!("\n{:<44} {:>10} {:>10} {:>10}\n", "", "median", "min", "max");
        for (label, sample) in &self.samples {
            let shown = [sample.median, sample.min, sample.max].map(|value| sample.show(value));
            let [median, min, max] = shown;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{label:<44} {median:>10} {min:>10} {max:>10}");
        }
        text
    }
}

impl Machine {
    fn here() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { processors, model: model().unwrap_or_else(|| std::env::consts::ARCH.to_owned()) }
    }
}

/// What Linux calls the processor.
fn model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_mark_is_shown_as_missed() {
        let mut result = BenchResult::new("fault");
        result.mark("as cheap as hoped", Target::AtMost(60.0), 61.0);
        assert!(result.table().contains("MISSED"));
        result.mark("as many as hoped", Target::AtLeast(60.0), 61.0);
        assert!(result.table().contains("met"));
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let value: serde_json::Value =
            serde_json::from_str(&BenchResult::new("fault").json()).expect("it is JSON");
        for field in ["name", "parameters", "machine", "samples", "ratios", "marks", "absent"] {
            assert!(value.get(field).is_some(), "{field}");
        }
    }
}
