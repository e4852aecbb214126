//! The failure matrix: every phase of a migration against everything that can go wrong in it.
//!
//! `cargo xtask matrix` prints it.

mod failures;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "kvm/gate.rs"]
mod gate;
mod session;

use clap::Parser;
use failures::fault::{Column, Fault};
use failures::phase::Phase;
use failures::run::{Found, Job, Rule, Runs, Wrong, one};
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

/// Runs at a time: most of the time each waits.
const ABREAST: usize = 12;

/// Of so many runs one is made with a native guest as well.
const NATIVELY: u64 = 3;

/// Characters of the first column, and of each that follows.
const WIDTHS: (usize, usize) = (17, 14);

/// Every phase of a migration against everything that can go wrong in it.
#[derive(Parser)]
struct Arguments {
    /// How often each failure strikes in each phase.
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u64,
    /// Only the failures and phases whose names, as they are printed where something is wrong,
    /// contain this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

impl Arguments {
    fn ask_for(&self, job: &Job) -> bool {
        name(job).contains(&self.only)
    }
}

/// What a job is called where something is wrong, and after `--only`.
fn name(job: &Job) -> String {
    match job.runs {
        Runs::Software => format!("{:?}, {:?}", job.phase, job.fault),
        Runs::Natively => format!("{:?}, {:?}, on /dev/kvm", job.phase, job.fault),
    }
}

/// A run and what it came to.
struct Line {
    job: Job,
    result: Result<Found, Wrong>,
}

fn main() -> ExitCode {
    let lines = all(&jobs(&Arguments::parse()));
    print!("{}", table(&lines));
    let sound = lines.iter().all(|line| line.result.is_ok());
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn jobs(arguments: &Arguments) -> Vec<Job> {
    let (natively, mut jobs) = (runs_natively(), Vec::new());
    for phase in Phase::ALL {
        let faults = Column::ALL.iter().flat_map(|column| column.faults());
        for fault in faults.filter(|fault| fault.strikes_in(phase)).copied() {
            let job = |runs| move |seed| Job { phase, fault, seed, broken: None, runs };
            let count = arguments.runs * often(phase, fault);
            let native = if natively { count.div_ceil(NATIVELY) } else { 0 };
            let in_software = (0..count).map(job(Runs::Software));
            let all = in_software.chain((0..native).map(job(Runs::Natively)));
            jobs.extend(all.filter(|job| arguments.ask_for(job)));
        }
    }
    jobs
}

/// Whether native guests run here; says so where they do not.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn runs_natively() -> bool {
    gate::has_any()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn runs_natively() -> bool {
    false
}

/// How many times as often: kills at any moment find what no message stands for.
fn often(phase: Phase, fault: Fault) -> u64 {
    if phase == Phase::AnyMoment && matches!(fault, Fault::Kill(_)) { 10 } else { 1 }
}

/// Runs them all, some at a time.
fn all(jobs: &[Job]) -> Vec<Line> {
    let (next, (sender, lines)) = (AtomicUsize::new(0), channel());
    std::thread::scope(|scope| {
        for _ in 0..ABREAST {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || work(jobs, next, &sender));
        }
        drop(sender);
        let mut done = Vec::new();
        for line in lines {
            done.push(line);
            announce(jobs, &done);
        }
        done
    })
}

/// Says when all runs in the phase of the last one are done.
fn announce(jobs: &[Job], done: &[Line]) {
    let Some(Line { job: Job { phase, .. }, .. }) = done.last() else { return };
    let asked = jobs.iter().filter(|job| job.phase == *phase).count();
    if asked == done.iter().filter(|line| line.job.phase == *phase).count() {
        eprintln!("{}: {asked} runs done", phase.title());
    }
}

/// One thread's share: it takes the next job until there is none.
fn work(jobs: &[Job], next: &AtomicUsize, done: &Sender<Line>) {
    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
        let result = std::panic::catch_unwind(|| one(job)).unwrap_or_else(|_| {
            let seen = "a side did not say what it always says".to_owned();
            Err(Wrong { rule: Rule::Manners, seen })
        });
        done.send(Line { job: *job, result }).expect("somebody waits for it");
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = heading();
    for phase in Phase::ALL.into_iter().filter(|phase| has(lines, *phase)) {
        let cells = Column::ALL.map(|column| cell(lines, phase, column));
        let height = cells.iter().map(Vec::len).max().unwrap_or_default();
        for at in 0..height {
            let title = if at == 0 { phase.title() } else { "" };
            row(&mut text, title, cells.iter().map(|cell| cell.get(at).map_or("", String::as_str)));
        }
        text.push('\n');
    }
    text + LEGEND + &wrongs(lines) + &totals(lines)
}

fn has(lines: &[Line], phase: Phase) -> bool {
    lines.iter().any(|line| line.job.phase == phase)
}

const LEGEND: &str = "\
here   the source kept it, and the next attempt moved it
died   so it did, and the destination's process had died of its lack of memory
asked  the source did not know, asked the destination, and kept it
told   the source did not know, was told by a person, and kept it
there  the destination has it
gone   it went with a process that was killed or told to end while it had the guest

A side that says nothing in a phase has no words there to be garbled or cut short. A destination
without memory gets no more of it from that moment on: where it needs none, it goes on.

";

fn heading() -> String {
    let mut text = String::from("\n");
    row(&mut text, "", Column::ALL.iter().map(|column| column.title()));
    text + "\n"
}

fn row<'t>(text: &mut String, title: &str, cells: impl Iterator<Item = &'t str>) {
    let (first, rest) = WIDTHS;
    let mut line = format!("{title:<first$}");
    cells.for_each(|cell| line += &format!("{cell:<rest$}"));
    let _ = writeln!(text, "{}", line.trim_end());
}

/// How many runs were right, and where the guest was found.
fn cell(lines: &[Line], phase: Phase, column: Column) -> Vec<String> {
    let of = |line: &&Line| line.job.phase == phase && column.faults().contains(&line.job.fault);
    let (found, wrong): (Vec<_>, Vec<_>) =
        lines.iter().filter(of).map(|line| line.result.as_ref()).partition(|result| result.is_ok());
    if found.len() + wrong.len() == 0 {
        return vec!["-".to_owned()];
    }
    let mut cell = vec![format!("{} ok", found.len())];
    if !wrong.is_empty() {
        cell.push(format!("{} WRONG", wrong.len()));
    }
    for (place, name) in PLACES {
        let count = found.iter().filter(|result| **result == Ok(&place)).count();
        if count > 0 {
            cell.push(format!("{count} {name}"));
        }
    }
    cell
}

const PLACES: [(Found, &str); 6] = [
    (Found::Here, "here"),
    (Found::Outlived, "died"),
    (Found::Asked, "asked"),
    (Found::Told, "told"),
    (Found::There, "there"),
    (Found::Gone, "gone"),
];

fn wrongs(lines: &[Line]) -> String {
    let mut text = String::new();
    for Line { job, result } in lines {
        if let Err(Wrong { rule, seen }) = result {
            let _ = writeln!(text, "{}, seed {}: {rule:?}: {seen}\n", name(job), job.seed);
        }
    }
    if !text.is_empty() {
        text += "alone: cargo test --release -p vellum-cli --test matrix -- --only 'PHASE, FAILURE'\n\n";
    }
    text
}

fn totals(lines: &[Line]) -> String {
    let broken = |rule| {
        let broke = |line: &&Line| line.result.as_ref().is_err_and(|wrong| wrong.rule == rule);
        lines.iter().filter(broke).count()
    };
    format!(
        "{} runs: {} with a page lost, {} with two guests, {} with none, {} wrong otherwise\n",
        lines.len(),
        broken(Rule::NoPageLost),
        broken(Rule::NeverTwo),
        broken(Rule::NeverNone),
        broken(Rule::Patience) + broken(Rule::Manners),
    )
}
