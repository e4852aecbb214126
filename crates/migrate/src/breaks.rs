//! Deliberate bugs in the shipped path: the negative control of the failure matrix.
//!
//! Without the feature `breaks` the questions below are constant and the code behind them is gone.

/// A deliberate bug of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// The attempt takes what an earlier one took from the log, and all that it sent, for delivered,
    /// and begins with what the log finds from now on.
    ForgetOwed,
    /// A hand-over that is not acknowledged is taken for one that failed: the guest runs on here, and
    /// nobody is asked.
    ResumeUnasked,
}

/// Which bug, if any, an attempt has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaks {
    #[cfg(feature = "breaks")]
    pub(crate) chosen: Option<Break>,
}

impl Breaks {
    #[cfg(feature = "breaks")]
    pub(crate) fn has(self, bug: Break) -> bool {
        self.chosen == Some(bug)
    }

    #[cfg(not(feature = "breaks"))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn has(self, _: Break) -> bool {
        false
    }
}
