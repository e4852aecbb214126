//! All steps in turn, with a table at the end.

use crate::failure::Failure;
use crate::presence::{self, Absence};
use crate::step::Step;
use crate::tool::{self, Missing};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How a step ended.
struct Line {
    step: Step,
    elapsed: Duration,
    outcome: Result<Vec<Absence>, Failure>,
}

/// Runs every step until one fails, and says how each went.
pub(crate) fn run(missing: Missing) -> ExitCode {
    if let Err(failure) = tool::require_all(missing) {
        eprintln!("xtask: {failure}");
        return ExitCode::FAILURE;
    }
    let lines = run_until_failure();
    print_table(&lines);
    match lines.last() {
        Some(Line { outcome: Ok(_), .. }) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run_until_failure() -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, step) in Step::ALL.into_iter().enumerate() {
        println!("\n== {} of {}: {} ({})", index + 1, Step::ALL.len(), step.name(), step.title());
        let start = Instant::now();
        let outcome = step.run();
        let failed = outcome.is_err();
        lines.push(Line { step, elapsed: start.elapsed(), outcome });
        if failed {
            break;
        }
    }
    lines
}

fn print_table(lines: &[Line]) {
    println!();
    for line in lines {
        let verdict = if line.outcome.is_ok() { "passed" } else { "FAILED" };
        let seconds = line.elapsed.as_secs_f64();
        println!("{:<14}{verdict:<8}{seconds:>7.1} s  {}", line.step.name(), line.step.title());
    }
    for step in &Step::ALL[lines.len()..] {
        println!("{:<14}{:<8}{:>9}  {}", step.name(), "not run", "", step.title());
    }
    for line in lines {
        if let Err(failure) = &line.outcome {
            println!(
                "\n{}: {failure}\n  alone: cargo xtask {}",
                line.step.name(),
                line.step.name()
            );
        }
    }
    let absences = lines.iter().filter_map(|line| line.outcome.as_ref().ok()).flatten();
    presence::print(&absences.cloned().collect::<Vec<_>>());
    print_count(lines);
}

fn print_count(lines: &[Line]) {
    let failed = lines.iter().filter(|line| line.outcome.is_err()).count();
    let elapsed: Duration = lines.iter().map(|line| line.elapsed).sum();
    println!("\n{:.0} s in all", elapsed.as_secs_f64());
    println!("{} passed, {failed} failed", lines.len() - failed);
}
