//! What a format must offer.

use crate::{Entry, Level, SubPageMap};

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

/// Where a walk begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// The level of the root tables.
    pub level: Level,
    /// How many root tables lie side by side, a power of two: the address bits above the first
    /// table's choose one. More than one only where the architecture concatenates (Arm).
    pub tables: u32,
}

/// What becomes of an entry that points to a table when no store may pass it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClosedTable {
    /// It loses its write permission: loads pass.
    ReadOnly,
    /// It has no permission to lose and is **parked**: invalid for hardware, its address kept. The
    /// first access of any kind faults and links it again.
    Parked,
}

/// How a leaf is replaced by a table or a table by a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// In one step: hardware that holds the old entry uses the one or the other.
    AtOnce,
    /// Break before make: invalid first, then a shoot-down, then the new entry. Hardware that finds
    /// both sizes for one address may fault or worse.
    BreakFirst,
}

/// What a leaf with a clear A bit means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClearAccessed {
    /// Nobody has used it since; the next use passes.
    Passes,
    /// The next use faults, unless hardware was told to set the bit by itself.
    MayFault,
}

/// What opening a leaf does to its D bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// Nothing.
    KeepsDirty,
    /// It sets it: W and D are one bit.
    IsDirty,
}

/// Whether a format's 4 KiB leaves can leave the decision about a store to a table of sub-page
/// permissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubPageTables {
    /// They can, where the processor does.
    Present,
    /// They cannot: permissions finer than a page are enforced by emulating stores.
    None,
}

/// A tree of tables, whatever its leaves are for.
pub trait TableFormat: Send + Sync + 'static {
    /// log2 of the entries in a table.
    const INDEX_BITS: u32;

    /// Whether a cached upper-level entry carries the write permission combined down to it, so
    /// that opening an entry needs no shoot-down once its root was closed and shot down. An
    /// implementation cites its manual.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool;

    /// How an entry changes between table and leaf.
    const REPLACE: Replace;

    /// The root of tables that translate `address_bits` of guest address; `None` where the format
    /// has no such tables.
    fn root(address_bits: u32) -> Option<Root>;

    /// Spells `entry` at `level`.
    fn encode(entry: Entry, level: Level) -> Raw;

    /// Whether there is anything: a table (closed ones too), a leaf, or a replacement under way.
    fn is_present(raw: Raw) -> bool;

    /// Whether a store may pass this entry without a fault. A [`Partial`](crate::Write::Partial)
    /// leaf may let one pass.
    fn is_storable(raw: Raw) -> bool;

    /// The same entry, storable. Only for a table entry or a liftable leaf.
    #[must_use]
    fn open(raw: Raw) -> Raw;

    /// The same entry, no longer storable; a liftable leaf stays liftable.
    #[must_use]
    fn close(raw: Raw) -> Raw;

    /// Whether an entry of the last level has D: hardware's, or what is kept of it where the leaf is
    /// not storable.
    fn is_dirty(raw: Raw) -> bool;

    /// The same entry without D.
    #[must_use]
    fn clear_dirty(raw: Raw) -> Raw;
}

/// Tables whose last level says which sub-pages of a page may be written.
pub trait SubPageFormat: TableFormat {
    /// The last-level entry of a page with this map.
    fn vector(map: SubPageMap) -> Raw;
}

/// How one architecture spells second-stage entries.
///
/// The functions on [`Raw`] beside [`encode`](TableFormat::encode) and [`decode`](Format::decode)
/// are for hot paths: each equals a decode, a change of meaning and an encode (property-tested), and
/// keeps whatever hardware set meanwhile.
pub trait Format: TableFormat {
    /// The name on command lines and in reports.
    const NAME: &'static str;

    /// How many bits of guest address tables translate that were not told otherwise.
    const ADDRESS_BITS: u32;

    /// What a closed entry that points to a table is for hardware.
    const CLOSED_TABLE: ClosedTable;

    /// What a leaf without A does.
    const CLEAR_ACCESSED: ClearAccessed;

    /// What [`open`](TableFormat::open) does to D.
    const OPENED: Opened;

    /// Whether leaves may be [`Partial`](crate::Write::Partial).
    const SUB_PAGES: SubPageTables;

    /// The tables that say which sub-pages of those may be written. Of no use where
    /// [`SUB_PAGES`](Format::SUB_PAGES) is `None`.
    type SubPages: SubPageFormat;

    /// Reads an entry at `level`.
    fn decode(raw: Raw, level: Level) -> Entry;

    /// Whether an entry at `level` maps a page.
    fn is_leaf(raw: Raw, level: Level) -> bool;

    /// Whether a leaf is one that a fault may make storable, or has.
    fn is_liftable(raw: Raw) -> bool;

    /// Whether a leaf has A.
    fn is_accessed(raw: Raw) -> bool;

    /// The same leaf with A.
    #[must_use]
    fn set_accessed(raw: Raw) -> Raw;

    /// The same leaf without A.
    #[must_use]
    fn clear_accessed(raw: Raw) -> Raw;

    /// The same leaf, neither storable nor liftable.
    #[must_use]
    fn deny(raw: Raw) -> Raw;

    /// The same leaf, which was denied, liftable.
    #[must_use]
    fn lift(raw: Raw) -> Raw;

    /// Whether a leaf is [`Partial`](crate::Write::Partial).
    #[inline]
    fn is_partial(raw: Raw) -> bool {
        let _ = raw;
        false
    }

    /// The same leaf, which was denied, [`Partial`](crate::Write::Partial); where leaves cannot be,
    /// as it was.
    #[must_use]
    #[inline]
    fn permit_partly(raw: Raw) -> Raw {
        raw
    }
}
