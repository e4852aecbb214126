//! How events reach whoever looks.

use crate::event::Event;
use crate::quantity::show_count;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::time::Duration;

/// Who looks on.
pub(crate) enum Show {
    /// Nobody: the result alone is wanted.
    Nobody,
    /// A pipe or a file: a line an event, on standard error.
    Lines,
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
        if Term::stderr().is_term() { Self::Live(bar()) } else { Self::Lines }
    }

    /// Shows `event`. Where nobody can be reached any more, the migration goes on regardless.
    pub(crate) fn say(&self, event: &Event) {
        match self {
            Self::Nobody => {}
            Self::Lines => print_line(event),
            Self::Live(bar) => update(bar, event),
            Self::EventsOut => print_json(std::io::stdout().lock(), event),
            Self::EventsErr => print_json(std::io::stderr().lock(), event),
        }
    }

    /// Takes the live line away.
    pub(crate) fn end(&self) {
        if let Self::Live(bar) = self {
            bar.finish_and_clear();
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

fn update(bar: &ProgressBar, event: &Event) {
    match sentence(event) {
        Some(text) if stays(event) => bar.suspend(|| write_line(&text)),
        Some(text) => bar.set_message(text),
        None => {}
    }
}

/// Whether the line is worth keeping once the next has come.
fn stays(event: &Event) -> bool {
    !matches!(event, Event::Copying { .. } | Event::Round { .. } | Event::Progress { .. })
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
             the destination is asked every second. If you know that it does not run there: \
             vellum migrate --resume {}",
            std::process::id()
        ),
        Event::Progress { retired, passes } => progress(retired, passes),
        Event::Console { text } => text.trim_end().to_owned(),
        Event::Ended { reason, .. } => reason.clone(),
        Event::Refused { reason } => format!("the guest did not arrive: {reason}"),
    })
}

fn progress(retired: &[u64], passes: &[u64]) -> String {
    let instructions = show_count(retired.iter().sum());
    match passes.iter().min() {
        None | Some(0) => format!("{instructions} instructions"),
        Some(passes) => format!("{instructions} instructions, {} passes", show_count(*passes)),
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
    fn only_passing_news_is_overwritten() {
        assert!(!stays(&Event::Copying { round: 1, done: 2, of: 3 }));
        assert!(stays(&Event::RunsOn { reason: "the destination went away".to_owned() }));
    }
}
