//! What passes an entry.

use vellum_mmu::Access;

/// A set of permitted accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions(u8);

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Data reads.
    pub const READ: Self = Self(1);
    /// Data writes.
    pub const WRITE: Self = Self(2);
    /// Fetches.
    pub const EXECUTE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// `self` and `other` where any of `bits` is set in `raw`, else `self` alone.
    #[must_use]
    #[inline]
    pub(super) const fn with(self, other: Self, raw: u64, bits: u64) -> Self {
        if raw & bits != 0 { self.or(other) } else { self }
    }

    /// What either permits.
    #[must_use]
    #[inline]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both permit.
    #[must_use]
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `access` passes.
    #[must_use]
    #[inline]
    pub const fn allow(self, access: Access) -> bool {
        let needed = match access {
            Access::Read => Self::READ,
            Access::Write | Access::Walk => Self::WRITE,
            Access::Execute => Self::EXECUTE,
        };
        self.0 & needed.0 != 0
    }
}
