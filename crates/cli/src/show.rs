//! How events reach whoever looks.

use crate::event::Event;
use crate::machine::{Life, Work};
use crate::quantity::show_count;
use crate::report::{Width, wrapped};
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who looks on.
pub(crate) enum Show {
    /// Nobody: the result alone is wanted, and a question that only a person can answer.
    Nobody,
    /// A pipe or a file: a line an event, on standard error.
    Lines(Mutex<Pace>),
    /// A terminal: one line that changes, on standard error.
    Live(ProgressBar),
    /// A program: JSON lines on standard output.
    EventsOut,
    /// A program: JSON lines on standard error.
    EventsErr,
}

impl Show {
    /// A person, at a terminal or behind a pipe.
    pub(crate) fn person() -> Self {
        if Term::stderr().is_term() { Self::Live(bar()) } else { Self::Lines(Mutex::default()) }
    }

    /// A person who watches a picture of several lines, or the notes alone behind a pipe.
    pub(crate) fn watcher() -> Self {
        if Term::stderr().is_term() { Self::Live(easel()) } else { Self::Lines(Mutex::default()) }
    }

    /// Puts a picture in the place of the last one, where there is a terminal.
    pub(crate) fn draw(&self, picture: impl FnOnce() -> String) {
        if let Self::Live(easel) = self {
            easel.set_message(picture());
        }
    }

    /// Tells a person something that stays.
    pub(crate) fn note(&self, text: &str) {
        match self {
            Self::Live(bar) => bar.suspend(|| write_line(&fitted(text))),
            Self::Lines(_) => write_line(text),
            Self::Nobody | Self::EventsOut | Self::EventsErr => {}
        }
    }

    /// Shows `event`. Where nobody can be reached any more, the migration goes on regardless.
    pub(crate) fn say(&self, event: &Event) {
        match self {
            Self::Nobody if matches!(event, Event::Unknown { .. }) => print_line(event),
            Self::Nobody => {}
            Self::Lines(pace) => pace_line(&mut lock(pace), event),
            Self::Live(bar) => update(bar, event),
            Self::EventsOut => print_json(std::io::stdout().lock(), event),
            Self::EventsErr => print_json(std::io::stderr().lock(), event),
        }
    }

    /// Takes the live line away, or writes the one that was held back.
    pub(crate) fn end(&self) {
        match self {
            Self::Live(bar) => bar.finish_and_clear(),
            Self::Lines(pace) => lock(pace).flush().iter().for_each(|text| write_line(text)),
            _ => {}
        }
    }
}

/// `wide_msg` is cut to the terminal's width, however narrow.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Whoever draws sees to it that a picture fits.
fn easel() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let easel = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    easel.set_style(style);
    easel
}

fn update(bar: &ProgressBar, event: &Event) {
    match sentence(event) {
        Some(text) if stays(event) => bar.suspend(|| write_line(&fitted(&text))),
        Some(text) => bar.set_message(text),
        None => {}
    }
}

/// Whether the line is worth keeping once the next has come.
fn stays(event: &Event) -> bool {
    !matches!(event, Event::Copying { .. } | Event::Round { .. } | Event::Progress(_))
}

/// Broken between words where the terminal is narrow.
fn fitted(text: &str) -> String {
    let columns = Term::stderr().size_checked().map(|(_, columns)| usize::from(columns));
    wrapped(text, columns.map_or(Width::Unlimited, Width::Columns))
}

/// How often progress is worth a line of a log.
const EVERY: Duration = Duration::from_secs(10);

/// Holds back progress that comes too soon after what was written last.
#[derive(Default)]
pub(crate) struct Pace {
    since: Option<Instant>,
    held: Option<String>,
}

impl Pace {
    /// What to write of `progress` made at `now`.
    fn take(&mut self, progress: String, now: Instant) -> Option<String> {
        let since = *self.since.get_or_insert(now);
        self.held = Some(progress);
        if now.saturating_duration_since(since) < EVERY {
            return None;
        }
        self.since = Some(now);
        self.flush()
    }

    /// What was held back.
    fn flush(&mut self) -> Option<String> {
        self.held.take()
    }
}

/// A thread that panicked while it wrote leaves no harm behind.
fn lock(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pace_line(pace: &mut Pace, event: &Event) {
    match event {
        Event::Progress(life) => {
            let due = pace.take(progress(life), Instant::now());
            due.iter().for_each(|text| write_line(text));
        }
        Event::Ended { .. } => {
            pace.flush().iter().for_each(|text| write_line(text));
            print_line(event);
        }
        other => print_line(other),
    }
}

fn print_line(event: &Event) {
    if let (Some(text), false) = (sentence(event), matches!(event, Event::Copying { .. })) {
        write_line(&text);
    }
}

fn write_line(text: &str) {
    // Who closed standard error does not want to know.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn print_json(mut stream: impl Write, event: &Event) {
    if let Ok(text) = serde_json::to_string(event) {
        // A reader that has gone away is no reason to lose a guest.
        let _ = writeln!(stream, "{text}").and_then(|()| stream.flush());
    }
}

fn sentence(event: &Event) -> Option<String> {
    Some(match event {
        Event::Listening { address } => format!("listening at {address}"),
        Event::Running => "the guest runs here".to_owned(),
        Event::Connected => "connected".to_owned(),
        Event::Tracking { method, why } => format!("tracking writes by {method}: {why}"),
        Event::Copying { round, done, of } => {
            format!("round {round}: {} of {} pages", show_count(*done), show_count(*of))
        }
        Event::Round { round, dirty } => format!("round {round}: {} dirty", show_count(*dirty)),
        Event::Paused => "the guest is paused".to_owned(),
        Event::HandingOver => "handing over".to_owned(),
        Event::HandedOver => "the destination has the guest".to_owned(),
        Event::RunsOn { reason } => format!("{reason}; the guest runs on here"),
        Event::Unknown { reason } => format!(
            "{reason}. Whether the destination runs the guest is unknown: it stays paused here, and \
             the destination is asked every second; Ctrl-C ends it here. If you know that it does \
             not run there: vellum migrate --resume {}",
            std::process::id()
        ),
        Event::Progress(life) => progress(life),
        Event::Console { text } => harmless(text.trim_end()),
        Event::Ended { reason, .. } => reason.clone(),
        Event::Refused { reason } => format!("the guest did not arrive: {reason}"),
    })
}

/// A guest writes lines; it does not steer the terminal.
fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

fn progress(Life { work, passes }: &Life) -> String {
    let unit = match work {
        Work::Retired(_) => "instructions",
        Work::Exits(_) => "exits",
    };
    let amount = show_count(work.amounts().iter().sum());
    match passes.iter().min() {
        None | Some(0) => format!("{amount} {unit}"),
        Some(passes) => format!("{amount} {unit}, {} passes", show_count(*passes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_names_the_way_out() {
        let text = sentence(&Event::Unknown { reason: "the connection closed".to_owned() });
        let way_out = format!("vellum migrate --resume {}", std::process::id());
        assert!(text.is_some_and(|text| text.contains(&way_out)));
    }

    #[test]
    fn a_guest_does_not_steer_the_terminal() {
        let event = Event::Console { text: "a\u{1b}[31m\tb\u{9b}0m\r".to_owned() };
        assert_eq!(sentence(&event).as_deref(), Some("a\u{fffd}[31m\tb\u{fffd}0m"));
    }

    #[test]
    fn a_log_gets_progress_now_and_then_and_at_the_end() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.take("one".to_owned(), start), None);
        assert_eq!(pace.take("two".to_owned(), start + EVERY), Some("two".to_owned()));
        assert_eq!(pace.take("three".to_owned(), start + EVERY), None);
        assert_eq!(pace.flush(), Some("three".to_owned()));
        assert_eq!(pace.flush(), None);
    }

    #[test]
    fn only_passing_news_is_overwritten() {
        assert!(!stays(&Event::Copying { round: 1, done: 2, of: 3 }));
        assert!(stays(&Event::RunsOn { reason: "the destination went away".to_owned() }));
    }
}
