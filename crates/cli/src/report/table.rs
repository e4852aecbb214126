//! The table a person reads.

use super::{Report, Round, Stop};
use crate::quantity::{show_count, show_duration, show_rate};
use console::Term;
use std::fmt::Write;
use std::time::Duration;

/// How many columns there are to write in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Width {
    /// A terminal of so many columns.
    Columns(usize),
    /// A file or a pipe.
    Unlimited,
}

impl Width {
    /// Whether so many fit.
    pub(crate) fn holds(self, columns: usize) -> bool {
        match self {
            Self::Columns(available) => columns <= available,
            Self::Unlimited => true,
        }
    }
}

/// What standard output has room for.
pub(crate) fn columns() -> Width {
    let terminal = Term::stdout();
    match terminal.size_checked() {
        Some((_, columns)) if terminal.is_term() => Width::Columns(usize::from(columns)),
        _ => Width::Unlimited,
    }
}

const HEAD: [&str; 6] = ["round", "dirty", "sent", "zero", "time", "rate"];

/// The rounds, the totals and the verdict.
pub(crate) fn render(report: &Report, width: Width) -> String {
    let rows: Vec<[String; 6]> =
        report.rounds.iter().enumerate().map(|(index, round)| row(index, round)).collect();
    let mut text = String::new();
    if !rows.is_empty() {
        text += &rounds(&rows, width);
        text.push('\n');
    }
    text += &tracked(report, width);
    text += &totals(report);
    text + &wrapped(&verdict(report), width) + "\n"
}

fn row(index: usize, round: &Round) -> [String; 6] {
    [
        (index + 1).to_string(),
        show_count(round.dirty),
        show_count(round.sent),
        show_count(round.zero),
        show_duration(round.time()),
        show_rate(round.bytes, round.time()),
    ]
}

fn rounds(rows: &[[String; 6]], width: Width) -> String {
    let columns = column_widths(rows);
    if width.holds(columns.iter().sum::<usize>() + 2 * (columns.len() - 1)) {
        wide(rows, columns)
    } else {
        narrow(rows)
    }
}

fn column_widths(rows: &[[String; 6]]) -> [usize; 6] {
    std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or(0)
    })
}

fn wide(rows: &[[String; 6]], columns: [usize; 6]) -> String {
    let head = HEAD.map(str::to_owned);
    std::iter::once(&head).chain(rows).map(|row| line(row, columns)).collect()
}

fn line(row: &[String; 6], columns: [usize; 6]) -> String {
    let cells: Vec<String> =
        row.iter().zip(columns).map(|(cell, width)| format!("{cell:>width$}")).collect();
    cells.join("  ") + "\n"
}

/// One cell a line, for terminals that cannot hold a row.
fn narrow(rows: &[[String; 6]]) -> String {
    let mut text = String::new();
    for row in rows {
        for (name, cell) in HEAD.iter().zip(row) {
            let indent = if *name == HEAD[0] { "" } else { "  " };
            text += &format!("{indent}{name} {cell}\n");
        }
    }
    text
}

fn totals(report: &Report) -> String {
    let lines = [
        ("total", report.total_ns),
        ("downtime", report.downtime_ns),
        ("first harvest", report.first_harvest_ns),
        ("verification", report.verify_ns),
    ];
    let mut text = String::new();
    for (name, ns) in lines {
        if let Some(ns) = ns {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<14} {}", show_duration(Duration::from_nanos(ns)));
        }
    }
    text
}

/// By what its writes were tracked, and where.
fn tracked(report: &Report, width: Width) -> String {
    match (&report.method, report.machine) {
        (Some(method), Some(machine)) => {
            wrapped(&format!("tracked by {method}, {}", machine.place()), width) + "\n"
        }
        _ => String::new(),
    }
}

fn verdict(report: &Report) -> String {
    let opening = if report.verified { "Verified" } else { "Not verified" };
    format!("{opening}: {}{}{}", report.reason, outran(report), missed(report))
}

fn outran(report: &Report) -> &'static str {
    match report.stop {
        None | Some(Stop::Fits) => "",
        Some(Stop::NoProgress) => {
            " The guest outran the wire: after three rounds without progress it was stopped."
        }
        Some(Stop::TooManyRounds) => {
            " The guest outran the wire: after thirty rounds it was stopped."
        }
    }
}

fn missed(report: &Report) -> String {
    let asked = report.downtime_asked_ns;
    match report.downtime_ns {
        Some(measured) if measured > asked => format!(
            " The downtime asked for was missed: {} instead of {}.",
            show_duration(Duration::from_nanos(measured)),
            show_duration(Duration::from_nanos(asked))
        ),
        _ => String::new(),
    }
}

/// `text` broken between words; a word longer than the width stays whole.
pub(crate) fn wrapped(text: &str, width: Width) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let columns = lines[last].chars().count() + 1 + word.chars().count();
        match (lines[last].is_empty(), width.holds(columns)) {
            (true, _) => lines[last].push_str(word),
            (false, true) => lines[last] += &format!(" {word}"),
            (false, false) => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}
