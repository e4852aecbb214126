//! Where dirty pages come from.

use crate::layout::Layout;
use crate::page_set::PageSet;
use vellum_pte::GfnRange;

/// Something that knows which pages of a guest changed: our own MMU's log, a kernel's, a device's.
///
/// A **round** is: [`collect`](Self::collect), then [`protect`](Self::protect) each range before
/// its pages are read, then deliver the pages or [`owe`](Self::owe) them. A round may gain pages
/// until its last `protect` has returned, so read the set only after that.
///
/// ```text
/// round.clear();
/// source.collect(&mut round)?;
/// for each range to be copied { source.protect(index, range, &mut round)?; copy the round's pages in it }
/// not delivered? source.owe(&round)
/// ```
///
/// What an implementation promises:
/// - **D1, no lost write**: a byte written before `protect` of its page returned is in this round
///   or a later one; once the guest is paused, a round holds all that was not delivered before.
/// - **D2, no lost harvest**: pages given to `owe` are in the next round. After any error the
///   implementation itself owes whatever it had already taken.
pub trait DirtySource {
    /// Why an operation failed.
    type Error: core::error::Error + Send + Sync + 'static;

    /// How it tracks, in a word or two (`per-page`, `protect-all`).
    fn method(&self) -> &'static str;

    /// The regions it covers. A [`PageSet`] given to the other functions is over this layout.
    fn layout(&self) -> &Layout;

    /// Starts logging; from its return on, D1 holds. What was written before is in no round: a
    /// consumer sends everything first. A log that is on begins anew: what it had found, and what it
    /// is owed, is from before.
    ///
    /// # Errors
    /// Logging is off. One that was on and cannot be stopped is as [`stop`](Self::stop) leaves it.
    fn start(&mut self) -> Result<(), Self::Error>;

    /// Stops logging and frees what it needed. Stopping twice is the same as once.
    ///
    /// # Errors
    /// Logging goes on, though perhaps not of everything: D1 does not hold until the next `start`.
    /// Stop again.
    fn stop(&mut self) -> Result<(), Self::Error>;

    /// Adds to `round` the pages that are dirty.
    ///
    /// # Errors
    /// Pages already taken are owed.
    fn collect(&mut self, round: &mut PageSet) -> Result<(), Self::Error>;

    /// Makes sure that a store to a page of `range` in region `region` from now on is in a later
    /// round, and adds to `round` what became dirty there since [`collect`](Self::collect). A
    /// source whose `collect` has done so already does nothing here.
    ///
    /// `round` is the set that `collect` was given. Its pages in `range` are read next, whoever has put
    /// them there, so a source may protect these alone. One that was taken out before is in a later
    /// round, or was the caller's to owe.
    ///
    /// # Errors
    /// Pages already taken are owed.
    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), Self::Error> {
        let _ = (region, range, round);
        Ok(())
    }

    /// Makes `pages`, which could not be delivered, dirty again. It cannot fail.
    fn owe(&mut self, pages: &PageSet);
}

/// What a caller of a log got wrong. Nothing has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misuse {
    /// The log is not on, so it does not know what was written.
    #[error("the log has not been started")]
    Off,
    /// The page set is over other regions than the log.
    #[error("the page set is over another layout than the log")]
    OtherLayout,
}

/// Whether a log is on: what an implementation of [`DirtySource`] has to know of its callers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogState {
    /// From `start` to `stop`.
    On,
    /// Before and after.
    Off,
}

impl LogState {
    /// Whether a log of `layout` in this state may add to `round`.
    ///
    /// # Errors
    /// [`Misuse`], which says that it is off before it looks at the set.
    pub fn may_add(self, round: &PageSet, layout: &Layout) -> Result<(), Misuse> {
        match self {
            Self::Off => Err(Misuse::Off),
            Self::On if round.is_over(layout) => Ok(()),
            Self::On => Err(Misuse::OtherLayout),
        }
    }
}

/// A source that is lent.
impl<S: DirtySource + ?Sized> DirtySource for &mut S {
    type Error = S::Error;

    fn method(&self) -> &'static str {
        (**self).method()
    }

    fn layout(&self) -> &Layout {
        (**self).layout()
    }

    fn start(&mut self) -> Result<(), S::Error> {
        (**self).start()
    }

    fn stop(&mut self) -> Result<(), S::Error> {
        (**self).stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), S::Error> {
        (**self).collect(round)
    }

    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), S::Error> {
        (**self).protect(region, range, round)
    }

    fn owe(&mut self, pages: &PageSet) {
        (**self).owe(pages);
    }
}
