//! What a format must offer.

use crate::{Entry, Level};

/// One entry as hardware holds it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Raw(pub u64);

impl core::fmt::Debug for Raw {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Raw({:#018x})", self.0)
    }
}

impl Raw {
    /// The entry of a fresh, zeroed table.
    pub const ABSENT: Self = Self(0);
}

/// How one architecture spells second-stage entries.
///
/// The functions on [`Raw`] beside [`encode`](Format::encode) and [`decode`](Format::decode) are
/// for hot paths: each equals a decode, a change of meaning and an encode (property-tested), and
/// keeps whatever hardware set meanwhile.
pub trait Format: Send + Sync + 'static {
    /// The name on command lines and in reports.
    const NAME: &'static str;

    /// The level of the root table.
    const ROOT: Level;

    /// log2 of the entries in a table.
    const INDEX_BITS: u32;

    /// Whether a cached upper-level entry carries the write permission combined down to it, so
    /// that opening an entry needs no shoot-down once its root was closed and shot down. An
    /// implementation cites its manual.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool;

    /// Spells `entry` at `level`.
    fn encode(entry: Entry, level: Level) -> Raw;

    /// Reads an entry at `level`.
    fn decode(raw: Raw, level: Level) -> Entry;

    /// Whether anything is mapped.
    fn is_present(raw: Raw) -> bool;

    /// Whether a store may pass this entry without a fault.
    fn is_storable(raw: Raw) -> bool;

    /// Whether a leaf is one that a fault may make storable, or has.
    fn is_liftable(raw: Raw) -> bool;

    /// The same entry, storable. Only for a table entry or a liftable leaf.
    #[must_use]
    fn open(raw: Raw) -> Raw;

    /// The same entry, no longer storable; a leaf stays liftable.
    #[must_use]
    fn close(raw: Raw) -> Raw;
}
