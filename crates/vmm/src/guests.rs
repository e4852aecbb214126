//! Guests that need no file.
//!
//! Each is a file of assembly in `guests/`: position-independent, without a stack, and with nothing of
//! its own but registers and RAM. The first [`RESERVED_PAGES`](crate::RESERVED_PAGES) pages of RAM they
//! leave alone, but for the diaries of [`Guest::Selfcheck`].

mod code;
mod plan;

pub use plan::{HOT_PER_COLD, Plan, passes_to_recheck_all};

use crate::program::Program;
use std::fmt;
use std::str::FromStr;

/// A guest that needs no file. What each does is what the software machine's guest of this name does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Guest {
    /// Rewrites its pages over and over and checks them itself: whoever gives it back an older page, or
    /// changes one, is found. See [`Plan`].
    #[default]
    Selfcheck,
    /// Writes every page of a working set in order, forever. The working set is as many bytes as the
    /// word says, or half of RAM if that is 0; vCPUs take pages in turn.
    Sequential,
    /// Writes random pages of a working set, which is as for [`Guest::Sequential`].
    Random,
    /// Writes pages of a working set with Zipf's distribution: the page of rank r about as often as 1/r.
    /// It is stepwise: an octave of ranks is drawn evenly, then a rank within it, and the ranks are
    /// scattered over the largest power of two of pages in the working set.
    Zipf,
    /// Rests, and counts the rests in one page a vCPU.
    Idle,
}

/// No guest has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no built-in guest is called {name:?}")]
pub struct UnknownGuest {
    /// The name asked for.
    pub name: String,
}

impl Guest {
    /// All of them, the default first.
    pub const ALL: [Self; 5] =
        [Self::Selfcheck, Self::Sequential, Self::Random, Self::Zipf, Self::Idle];

    /// Its name on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Selfcheck => "selfcheck",
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Zipf => "zipf",
            Self::Idle => "idle",
        }
    }

    /// Its instructions.
    #[must_use]
    pub fn program(self) -> Program {
        Program::built_in(code::of(self))
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Guest {
    type Err = UnknownGuest;

    fn from_str(name: &str) -> Result<Self, UnknownGuest> {
        let found = Self::ALL.into_iter().find(|guest| guest.name() == name);
        found.ok_or_else(|| UnknownGuest { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests;
