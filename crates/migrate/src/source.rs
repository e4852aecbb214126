//! The source's side, in phases. Each phase is a type that holds the guest; a phase that fails
//! turns into a [`Kept`] with the guest running.
//!
//! | phase | guest | log | on failure |
//! |---|---|---|---|
//! | [`greet`](greet::greet) | runs | off | nothing to undo |
//! | [`Live`] | runs | on | owe, stop the log |
//! | [`Stopped`] | paused | on | owe, resume, stop the log |
//! | [`Ready`] | paused, complete on both sides | on | the same |
//! | [`Unknown`] | paused | on | a person or the destination's answer decides |
//!
//! Only [`Ready`] sends the hand-over, and only when the memories were compared (or nobody asked).

mod batch;
mod greet;
mod hand_over;
mod held;
mod live;
mod pace;
mod round;
mod stopped;

pub use hand_over::Unknown;

use crate::address::Address;
#[cfg(feature = "breaks")]
use crate::breaks::Break;
use crate::breaks::Breaks;
use crate::cancel::Cancel;
use crate::failure::{BoxError, Failure};
use crate::guest::SourceGuest;
use crate::progress::Progress;
use crate::report::Report;
use crate::wire::Verify;
use held::Held;
use live::Live;
use std::time::Duration;

#[cfg(doc)]
use {hand_over::Ready, stopped::Stopped};

/// What the caller wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the guest may be paused. A wish: the report says whether it was met.
    pub downtime: Duration,
    /// Whether both memories are compared before the hand-over.
    pub verify: Verify,
    /// How long the other side may do nothing before the attempt fails.
    pub patience: Duration,
    /// What stops the attempt from outside.
    pub cancel: Cancel,
    /// A deliberate bug.
    #[cfg(feature = "breaks")]
    pub broken: Option<Break>,
}

impl Options {
    fn breaks(&self) -> Breaks {
        Breaks {
            #[cfg(feature = "breaks")]
            chosen: self.broken,
        }
    }
}

impl Default for Options {
    /// 100 ms of downtime, memories compared, half a minute of patience.
    fn default() -> Self {
        Self {
            downtime: Duration::from_millis(100),
            verify: Verify::Compare,
            patience: Duration::from_secs(30),
            cancel: Cancel::new(),
            #[cfg(feature = "breaks")]
            broken: None,
        }
    }
}

/// How an attempt ended.
#[must_use = "it holds the guest"]
#[derive(Debug)]
pub enum Outcome<G> {
    /// The guest runs there.
    Moved(Moved<G>),
    /// The guest runs here.
    Kept(Kept<G>),
    /// The guest is paused here, and perhaps runs there.
    Unknown(Unknown<G>),
}

/// The guest runs there; its shell is left here, paused for good.
#[must_use]
#[derive(Debug)]
#[non_exhaustive]
pub struct Moved<G> {
    /// The shell, to be taken apart. It must not be resumed.
    pub guest: G,
    /// What was done.
    pub report: Report,
}

/// It failed before the hand-over: the guest runs here, and the next attempt may begin at once.
#[must_use]
#[derive(Debug)]
#[non_exhaustive]
pub struct Kept<G> {
    /// The guest, running.
    pub guest: G,
    /// Where and why it failed.
    pub failure: Failure,
    /// What was done up to there.
    pub report: Report,
    /// Why the log could not be stopped, if it could not: then it is still on.
    pub log_left_on: Option<BoxError>,
}

/// Migrates `guest`, which runs, to the [`Receiver`](crate::Receiver) that listens at `to`, and
/// tells `watch` how far it is.
///
/// On success the guest runs there and its shell here stays paused. On any failure before the
/// hand-over it runs on here; all pages that the attempt had taken from its log are owed again
/// (D2), and its log is stopped.
pub fn migrate<G: SourceGuest>(
    guest: G,
    to: &Address,
    options: &Options,
    watch: &mut dyn FnMut(Progress),
) -> Outcome<G> {
    match attempt(Held::new(guest, to, options), watch) {
        Ok(outcome) => outcome,
        Err(kept) => Outcome::Kept(*kept),
    }
}

/// The phases in their order.
fn attempt<G: SourceGuest>(
    held: Held<G>,
    watch: &mut dyn FnMut(Progress),
) -> Result<Outcome<G>, Box<Kept<G>>> {
    let greeted = greet::greet(held, watch)?;
    let live = Live::start(greeted, watch)?;
    let stopped = live.copy(watch)?.pause(watch);
    let ready = stopped.copy(watch)?;
    Ok(ready.verify(watch)?.hand_over(watch))
}
