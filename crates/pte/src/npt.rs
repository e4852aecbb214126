//! AMD nested page tables.

use crate::bits::disjoint;
use crate::x86::{self, ADDRESS, Bits};
use crate::{
    ClearAccessed, ClosedTable, Entry, Format, Level, Opened, Raw, Replace, Root, Sppt,
    SubPageTables, TableFormat,
};

// AMD APM vol. 2, 5.3.3 to 5.3.5 (long-mode entries) as used by 15.25 (nested paging).
//
// | bits  | name     | at          | owner    | meaning; invariant |
// |-------|----------|-------------|----------|--------------------|
// | 0     | PRESENT  | all         | library  | the entry counts   |
// | 1     | WRITE    | all         | library  | writes; W1 above leaves, W2 everywhere |
// | 2     | USER     | all         | library  | always set: every nested access is a user access (15.25.5) |
// | 5     | ACCESSED | all         | hardware | set when used; T1  |
// | 6     | DIRTY    | leaf        | hardware | set by a write; T1 |
// | 7     | HUGE     | levels 2, 3 | library  | the entry maps a page (PAT at level 1: clear) |
// | 51:12 | ADDRESS  | all         | library  | frame |
// | 52    | LIFTABLE | leaf        | software | only logging keeps W clear |
// | 53    | FROZEN   | P = 0       | software | a replacement is under way |
// | 63    | NX       | all         | library  | no execution; always clear |
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const HUGE: u64 = 1 << 7;
const LIFTABLE: u64 = 1 << 52;
const FROZEN: u64 = 1 << 53;
const NX: u64 = 1 << 63;
const _: () = assert!(disjoint(&[
    PRESENT, WRITE, USER, ACCESSED, DIRTY, HUGE, ADDRESS, LIFTABLE, FROZEN, NX
]));

const BITS: Bits = Bits {
    present: PRESENT,
    table: PRESENT | USER,
    leaf: PRESENT | USER,
    write: WRITE,
    huge: HUGE,
    accessed: ACCESSED,
    dirty: DIRTY,
    liftable: LIFTABLE,
    frozen: FROZEN,
    partial: 0,
};

/// AMD's nested page tables, four levels.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl TableFormat for Npt {
    const INDEX_BITS: u32 = 9;
    // AMD APM vol. 2, 5.5 and 15.16: a cached upper-level entry is used only together with the
    // protection accumulated on the way to it; removing permission asks for a flush, adding does
    // not.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;
    const REPLACE: Replace = Replace::AtOnce;

    fn root(address_bits: u32) -> Option<Root> {
        x86::root(address_bits)
    }

    #[inline]
    fn encode(entry: Entry, level: Level) -> Raw {
        BITS.encode(entry, level)
    }

    #[inline]
    fn is_present(raw: Raw) -> bool {
        BITS.is_present(raw)
    }

    #[inline]
    fn is_storable(raw: Raw) -> bool {
        raw.0 & WRITE != 0
    }

    #[inline]
    fn open(raw: Raw) -> Raw {
        Raw(raw.0 | WRITE)
    }

    #[inline]
    fn close(raw: Raw) -> Raw {
        Raw(raw.0 & !WRITE)
    }

    #[inline]
    fn is_dirty(raw: Raw) -> bool {
        raw.0 & DIRTY != 0
    }

    #[inline]
    fn clear_dirty(raw: Raw) -> Raw {
        Raw(raw.0 & !DIRTY)
    }
}

impl Format for Npt {
    const NAME: &'static str = "npt";
    const ADDRESS_BITS: u32 = x86::ADDRESS_BITS;
    const CLOSED_TABLE: ClosedTable = ClosedTable::ReadOnly;
    const CLEAR_ACCESSED: ClearAccessed = ClearAccessed::Passes;
    const OPENED: Opened = Opened::KeepsDirty;
    const SUB_PAGES: SubPageTables = SubPageTables::None;
    type SubPages = Sppt;

    #[inline]
    fn decode(raw: Raw, level: Level) -> Entry {
        BITS.decode(raw, level)
    }

    #[inline]
    fn is_leaf(raw: Raw, level: Level) -> bool {
        BITS.is_leaf(raw, level)
    }

    #[inline]
    fn is_liftable(raw: Raw) -> bool {
        raw.0 & LIFTABLE != 0
    }

    #[inline]
    fn is_accessed(raw: Raw) -> bool {
        raw.0 & ACCESSED != 0
    }

    #[inline]
    fn set_accessed(raw: Raw) -> Raw {
        Raw(raw.0 | ACCESSED)
    }

    #[inline]
    fn clear_accessed(raw: Raw) -> Raw {
        Raw(raw.0 & !ACCESSED)
    }

    #[inline]
    fn deny(raw: Raw) -> Raw {
        Raw(Self::close(raw).0 & !LIFTABLE)
    }

    #[inline]
    fn lift(raw: Raw) -> Raw {
        Raw(raw.0 | LIFTABLE)
    }
}
