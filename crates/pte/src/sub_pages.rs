//! Which 128-byte parts of a page may be written.

use crate::PAGE_SIZE;
use core::fmt;
use core::ops::Range;

/// The size of a sub-page in bytes.
pub const SUB_PAGE_SIZE: u64 = 128;
const _: () = assert!(SUB_PAGE_SIZE * u32::BITS as u64 == PAGE_SIZE);

/// A bit for each sub-page of a page: set where it may be written. Bit 0 is for the first 128
/// bytes. All ones is no restriction.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubPageMap(u32);

impl SubPageMap {
    /// All of the page may be written.
    pub const ALL: Self = Self(u32::MAX);
    /// Nothing of it may.
    pub const NONE: Self = Self(0);

    /// Wraps the bare bits.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The bare bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether there is no restriction.
    #[must_use]
    pub const fn is_all(self) -> bool {
        self.0 == u32::MAX
    }

    /// The first byte of `bytes`, counted from the page's start, that may not be written; `None`
    /// where all may. The end is exclusive: a write that ends with a sub-page's last byte does not
    /// touch the next one.
    #[must_use]
    pub fn first_denied(self, bytes: Range<u64>) -> Option<u64> {
        if bytes.is_empty() {
            return None;
        }
        let end = bytes.end.min(PAGE_SIZE).div_ceil(SUB_PAGE_SIZE);
        let mut touched = bytes.start / SUB_PAGE_SIZE..end;
        let denied = touched.find(|sub_page| self.0 >> sub_page & 1 == 0)?;
        Some(bytes.start.max(denied * SUB_PAGE_SIZE))
    }

    /// Whether the byte at `offset` in the page may be written.
    #[must_use]
    pub fn allows(self, offset: u64) -> bool {
        self.first_denied(offset..offset + 1).is_none()
    }
}

impl fmt::Debug for SubPageMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubPageMap({:#010x})", self.0)
    }
}

impl fmt::Display for SubPageMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}
