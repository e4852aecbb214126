//! Intel EPT.

use crate::bits::disjoint;
use crate::x86::{self, ADDRESS, Bits};
use crate::{
    ClearAccessed, ClosedTable, Entry, Format, Level, Opened, Raw, Replace, Root, Sppt,
    SubPageTables, TableFormat,
};

// Intel SDM vol. 3C, tables 29-1 to 29-7 (entries of the EPT paging structures).
//
// | bits  | name     | at               | owner    | meaning; invariant |
// |-------|----------|------------------|----------|--------------------|
// | 0     | READ     | all              | library  | data reads         |
// | 1     | WRITE    | all              | library  | data writes; W1 above leaves, W2 everywhere |
// | 2     | EXECUTE  | all              | library  | fetches            |
// | 5:3   | MEMTYPE  | leaf             | library  | memory type; 6 = write-back |
// | 7     | HUGE     | levels 2, 3      | library  | the entry maps a page |
// | 8     | ACCESSED | all              | hardware | set when used, if EPTP bit 6 is; T1 |
// | 9     | DIRTY    | leaf             | hardware | set by a write, if EPTP bit 6 is; T1 |
// | 51:12 | ADDRESS  | all              | library  | frame |
// | 52    | LIFTABLE | leaf             | software | only logging keeps W clear |
// | 53    | FROZEN   | nothing present  | software | a replacement is under way |
// | 61    | SPP      | 4 KiB leaf       | library  | SPPTP's tables decide about stores; S1, W2 |
// | 63    | VE       | all              | library  | suppress #VE; always clear |
const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const MEMTYPE: u64 = 7 << 3;
const WRITE_BACK: u64 = 6 << 3;
const HUGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const LIFTABLE: u64 = 1 << 52;
const FROZEN: u64 = 1 << 53;
const SPP: u64 = 1 << 61;
const VE: u64 = 1 << 63;
const _: () = assert!(disjoint(&[
    READ, WRITE, EXECUTE, MEMTYPE, HUGE, ACCESSED, DIRTY, ADDRESS, LIFTABLE, FROZEN, SPP, VE
]));
const _: () = assert!(WRITE_BACK & !MEMTYPE == 0);

const BITS: Bits = Bits {
    present: READ | WRITE | EXECUTE,
    table: READ | EXECUTE,
    leaf: READ | EXECUTE | WRITE_BACK,
    write: WRITE,
    huge: HUGE,
    accessed: ACCESSED,
    dirty: DIRTY,
    liftable: LIFTABLE,
    frozen: FROZEN,
    partial: SPP,
};

/// Intel's extended page tables, four levels.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

impl TableFormat for Ept {
    const INDEX_BITS: u32 = 9;
    // Intel SDM vol. 3C, 29.4.2: guest-physical and combined paging-structure-cache entries hold
    // the logical AND of the permissions of the entries used to reach them.
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
        raw.0 & (WRITE | SPP) != 0
    }

    #[inline]
    fn open(raw: Raw) -> Raw {
        Raw(raw.0 | WRITE)
    }

    #[inline]
    fn close(raw: Raw) -> Raw {
        Raw(raw.0 & !(WRITE | SPP))
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

impl Format for Ept {
    const NAME: &'static str = "ept";
    const ADDRESS_BITS: u32 = x86::ADDRESS_BITS;
    const CLOSED_TABLE: ClosedTable = ClosedTable::ReadOnly;
    const CLEAR_ACCESSED: ClearAccessed = ClearAccessed::Passes;
    const OPENED: Opened = Opened::KeepsDirty;
    const SUB_PAGES: SubPageTables = SubPageTables::Present;
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

    #[inline]
    fn is_partial(raw: Raw) -> bool {
        raw.0 & SPP != 0
    }

    #[inline]
    fn permit_partly(raw: Raw) -> Raw {
        Raw(raw.0 | SPP)
    }
}
