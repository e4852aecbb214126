//! What the guest executes.

/// The most bytes of a program: 16 pages.
pub(crate) const MOST: usize = 16 * 4096;

/// Position-independent machine code of 64 bits, for level 3.
///
/// It is put at the beginning of a page that the guest can read and not write. Every vCPU starts at its
/// first byte with these registers, and zero in the others; there is no stack.
///
/// | register | holds |
/// |---|---|
/// | `rdi` | the address of RAM |
/// | `rsi` | pages of RAM |
/// | `rdx` | the number of this vCPU |
/// | `rcx` | how many vCPUs there are |
/// | `r8` | the seed |
/// | `r9` | the word |
///
/// It talks to its monitor by [`crate::Port`]s.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program(Vec<u8>);

/// Why this is no program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProgramError {
    /// It does not fit.
    #[error("a program has at most {MOST} bytes, not {0}")]
    TooLong(usize),
}

impl Program {
    /// A program of these instructions.
    ///
    /// # Errors
    /// It is longer than 64 KiB.
    pub fn new(code: &[u8]) -> Result<Self, ProgramError> {
        if code.len() > MOST {
            Err(ProgramError::TooLong(code.len()))
        } else {
            Ok(Self(code.into()))
        }
    }

    /// A guest of this crate, whose tests show that it fits.
    pub(crate) fn built_in(code: &[u8]) -> Self {
        Self(code.into())
    }

    pub(crate) fn code(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
