//! Guests that need no file.
//!
//! | file | what |
//! |---|---|
//! | [`assembler`] | RV64IMA instructions and labels to words |
//! | [`image`] | words to an ELF file |
//! | [`start`] | what all guests do first |
//! | `writers` | [`Builtin::Sequential`], [`Builtin::Random`], [`Builtin::Zipf`], [`Builtin::Idle`] |
//! | [`selfcheck`] | [`Builtin::Selfcheck`] |
//!
//! A guest's first [`RESERVED_PAGES`] pages hold its program; what it writes lies above. Hart 0
//! starts the others.

pub mod assembler;
pub mod image;
pub mod selfcheck;
pub mod start;
mod writers;

use std::fmt;
use std::str::FromStr;

use assembler::AssembleError;

/// The pages at the start of RAM that a built-in guest keeps for its program.
pub const RESERVED_PAGES: u64 = 256;
/// The least memory that every built-in guest runs in, in bytes.
pub const MINIMUM_MEMORY: u64 = 8 << 20;

/// A built-in guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Builtin {
    /// Rewrites its pages over and over and checks them itself: see [`selfcheck`].
    #[default]
    Selfcheck,
    /// Writes every page of a working set in order, forever. The working set is as many bytes as
    /// the guest's word says, or half of RAM if that is 0; harts take pages in turn.
    Sequential,
    /// Writes random pages of a working set, which is as for [`Builtin::Sequential`].
    Random,
    /// Writes pages of a working set with Zipf's distribution: the page of rank r about as often
    /// as 1/r. It is stepwise: an octave of ranks is drawn evenly, then a rank within it, and the
    /// ranks are scattered over the largest power of two of pages in the working set.
    Zipf,
    /// Waits for interrupts that never come, and counts the waits in one page a hart.
    Idle,
}

/// No built-in guest has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no built-in guest is called {name:?}")]
pub struct UnknownGuest {
    /// The name asked for.
    pub name: String,
}

impl Builtin {
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

    /// Its ELF file, as [`crate::elf::Image::parse`] reads it.
    ///
    /// # Errors
    /// The program does not assemble: a mistake in this crate, which its tests would show.
    pub fn elf(self) -> Result<Vec<u8>, AssembleError> {
        let program = match self {
            Self::Selfcheck => selfcheck::program(),
            Self::Sequential => writers::sequential(),
            Self::Random => writers::random(),
            Self::Zipf => writers::zipf(),
            Self::Idle => writers::idle(),
        };
        Ok(image::elf(crate::RAM_BASE.gpa(), &program.finish()?))
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Builtin {
    type Err = UnknownGuest;

    fn from_str(name: &str) -> Result<Self, UnknownGuest> {
        let found = Self::ALL.into_iter().find(|guest| guest.name() == name);
        found.ok_or_else(|| UnknownGuest { name: name.to_owned() })
    }
}
