//! Formats small enough for loom: tables of two entries, four pages under two levels. One is like
//! x86, one like Arm; they differ in what closes a table, how sizes are exchanged, and what a leaf
//! without A does.

use std::marker::PhantomData;
use vellum_pte::{
    ClearAccessed, ClosedTable, Entry, Format, Gate, Leaf, Level, Opened, PAGE_SHIFT, Pfn, Raw,
    Replace, Root, SubPageFormat, SubPageMap, SubPageTables, TableFormat, Write,
};

/// Which architecture a tiny format is like.
pub trait Like: Send + Sync + 'static {
    const NAME: &'static str;
    const CLOSED_TABLE: ClosedTable;
    const REPLACE: Replace;
    const CLEAR_ACCESSED: ClearAccessed;
    /// log2 of the most root tables that may lie side by side.
    const CONCATENATED_BITS: u32;
    /// Whether leaves may be partly writable.
    const SUB_PAGES: SubPageTables;
}

/// Closed tables are read-only, sizes are exchanged at once, a leaf without A is as good.
pub struct LikeX86;

impl Like for LikeX86 {
    const NAME: &'static str = "like x86";
    const CLOSED_TABLE: ClosedTable = ClosedTable::ReadOnly;
    const REPLACE: Replace = Replace::AtOnce;
    const CLEAR_ACCESSED: ClearAccessed = ClearAccessed::Passes;
    const CONCATENATED_BITS: u32 = 0;
    const SUB_PAGES: SubPageTables = SubPageTables::Present;
}

/// Closed tables are parked, sizes are exchanged by break before make, a leaf without A may fault,
/// and two roots lie side by side before there is another level.
pub struct LikeArm;

impl Like for LikeArm {
    const NAME: &'static str = "like Arm";
    const CLOSED_TABLE: ClosedTable = ClosedTable::Parked;
    const REPLACE: Replace = Replace::BreakFirst;
    const CLEAR_ACCESSED: ClearAccessed = ClearAccessed::MayFault;
    const CONCATENATED_BITS: u32 = 1;
    const SUB_PAGES: SubPageTables = SubPageTables::None;
}

/// See [`Like`].
pub struct Tiny<A>(PhantomData<A>);

pub type X86 = Tiny<LikeX86>;
pub type Arm = Tiny<LikeArm>;

// | bits  | name     | at          | meaning                                 |
// |-------|----------|-------------|-----------------------------------------|
// | 0     | VALID    | all         | the entry counts for hardware           |
// | 1     | WRITE    | all         | stores pass                             |
// | 2     | LIFTABLE | leaf        | only logging keeps it read-only         |
// | 3     | LEAF     | leaf        | tells a leaf from a table               |
// | 4     | ACCESSED | leaf        | set by hardware                         |
// | 5     | PARKED   | VALID = 0   | a closed table, its address kept        |
// | 6     | FROZEN   | VALID = 0   | a replacement is under way              |
// | 7     | PARTIAL  | leaf        | sub-page tables decide about stores     |
// | 8     | DIRTY    | leaf        | set by hardware                         |
// | 63:12 | ADDRESS  | all         | frame                                   |
const VALID: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LIFTABLE: u64 = 1 << 2;
const LEAF: u64 = 1 << 3;
const ACCESSED: u64 = 1 << 4;
const PARKED: u64 = 1 << 5;
const FROZEN: u64 = 1 << 6;
const PARTIAL: u64 = 1 << 7;
const DIRTY: u64 = 1 << 8;

const fn when(condition: bool, bit: u64) -> u64 {
    if condition { bit } else { 0 }
}

fn frame(raw: Raw) -> Pfn {
    Pfn::of_address(raw.0)
}

fn encode_leaf(leaf: Leaf) -> u64 {
    leaf.frame.address()
        | VALID
        | LEAF
        | when(leaf.write == Write::Storable, WRITE)
        | when(matches!(leaf.write, Write::Storable | Write::Liftable), LIFTABLE)
        | when(leaf.write == Write::Partial, PARTIAL)
        | when(leaf.accessed, ACCESSED)
        | when(leaf.dirty, DIRTY)
}

fn decode_leaf(raw: Raw) -> Leaf {
    let write = match raw.0 {
        bits if bits & WRITE != 0 => Write::Storable,
        bits if bits & PARTIAL != 0 => Write::Partial,
        bits if bits & LIFTABLE != 0 => Write::Liftable,
        _ => Write::Denied,
    };
    Leaf { frame: frame(raw), write, accessed: raw.0 & ACCESSED != 0, dirty: raw.0 & DIRTY != 0 }
}

impl<A: Like> Tiny<A> {
    const PARKS: bool = matches!(A::CLOSED_TABLE, ClosedTable::Parked);
    const CLOSED: u64 = if Self::PARKS { PARKED } else { VALID };
}

impl<A: Like> TableFormat for Tiny<A> {
    const INDEX_BITS: u32 = 1;
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;
    const REPLACE: Replace = A::REPLACE;

    fn root(address_bits: u32) -> Option<Root> {
        let of_tables = |levels| PAGE_SHIFT + levels;
        let levels =
            (2..=3).find(|levels| of_tables(*levels) + A::CONCATENATED_BITS >= address_bits)?;
        let level = [Level::L2, Level::L3][levels as usize - 2];
        Some(Root { level, tables: 1 << address_bits.saturating_sub(of_tables(levels)) })
    }

    fn encode(entry: Entry, _: Level) -> Raw {
        Raw(match entry {
            Entry::Absent => 0,
            Entry::Frozen { table } => table.address() | FROZEN,
            Entry::Table { child, gate: Gate::Open, .. } => child.address() | VALID | WRITE,
            Entry::Table { child, gate: Gate::Closed, .. } => child.address() | Self::CLOSED,
            Entry::Leaf(leaf) => encode_leaf(leaf),
        })
    }

    fn is_present(raw: Raw) -> bool {
        raw.0 & (VALID | PARKED | FROZEN) != 0
    }

    fn is_storable(raw: Raw) -> bool {
        raw.0 & (WRITE | PARTIAL) != 0
    }

    fn open(raw: Raw) -> Raw {
        match raw.0 & LEAF {
            0 => Raw(raw.0 & !PARKED | VALID | WRITE),
            _ => Raw(raw.0 | WRITE),
        }
    }

    fn close(raw: Raw) -> Raw {
        match raw.0 & (LEAF | WRITE) {
            WRITE => Raw(raw.0 & !(WRITE | VALID) | Self::CLOSED),
            _ => Raw(raw.0 & !(WRITE | PARTIAL)),
        }
    }

    fn is_dirty(raw: Raw) -> bool {
        raw.0 & DIRTY != 0
    }

    fn clear_dirty(raw: Raw) -> Raw {
        Raw(raw.0 & !DIRTY)
    }
}

impl<A: Like> Format for Tiny<A> {
    const NAME: &'static str = A::NAME;
    const ADDRESS_BITS: u32 = PAGE_SHIFT + 2;
    const CLOSED_TABLE: ClosedTable = A::CLOSED_TABLE;
    const CLEAR_ACCESSED: ClearAccessed = A::CLEAR_ACCESSED;
    const OPENED: Opened = Opened::KeepsDirty;
    const SUB_PAGES: SubPageTables = A::SUB_PAGES;
    type SubPages = TinySppt;

    fn decode(raw: Raw, level: Level) -> Entry {
        if raw.0 & FROZEN != 0 {
            Entry::Frozen { table: frame(raw) }
        } else if !Self::is_present(raw) {
            Entry::Absent
        } else if Self::is_leaf(raw, level) {
            Entry::Leaf(decode_leaf(raw))
        } else {
            let gate = if raw.0 & WRITE != 0 { Gate::Open } else { Gate::Closed };
            Entry::table(frame(raw), gate)
        }
    }

    fn is_leaf(raw: Raw, _: Level) -> bool {
        raw.0 & LEAF != 0
    }

    fn is_liftable(raw: Raw) -> bool {
        raw.0 & LIFTABLE != 0
    }

    fn is_accessed(raw: Raw) -> bool {
        raw.0 & ACCESSED != 0
    }

    fn set_accessed(raw: Raw) -> Raw {
        Raw(raw.0 | ACCESSED)
    }

    fn clear_accessed(raw: Raw) -> Raw {
        Raw(raw.0 & !ACCESSED)
    }

    fn deny(raw: Raw) -> Raw {
        Raw(raw.0 & !(WRITE | LIFTABLE | PARTIAL))
    }

    fn lift(raw: Raw) -> Raw {
        Raw(raw.0 | LIFTABLE)
    }

    fn is_partial(raw: Raw) -> bool {
        raw.0 & PARTIAL != 0
    }

    fn permit_partly(raw: Raw) -> Raw {
        match A::SUB_PAGES {
            SubPageTables::Present => Raw(raw.0 | PARTIAL),
            SubPageTables::None => raw,
        }
    }
}

/// In an entry above the vectors of the sub-page tables: it counts. Its frame is where a leaf's is.
pub const SUB_PAGE_TABLE_VALID: u64 = 1 << 0;

/// Sub-page tables as small, with as many levels. The last one's entries are vectors: bit i is for
/// sub-page i.
pub struct TinySppt;

impl TableFormat for TinySppt {
    const INDEX_BITS: u32 = 1;
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;
    const REPLACE: Replace = Replace::AtOnce;

    fn root(address_bits: u32) -> Option<Root> {
        X86::root(address_bits)
    }

    fn encode(entry: Entry, _: Level) -> Raw {
        Raw(match entry {
            Entry::Table { child, gate: Gate::Open, .. } => child.address() | SUB_PAGE_TABLE_VALID,
            Entry::Table { child, gate: Gate::Closed, .. } => child.address(),
            _ => 0,
        })
    }

    fn is_present(raw: Raw) -> bool {
        raw.0 != 0
    }

    fn is_storable(raw: Raw) -> bool {
        raw.0 & SUB_PAGE_TABLE_VALID != 0
    }

    fn open(raw: Raw) -> Raw {
        Raw(raw.0 | SUB_PAGE_TABLE_VALID)
    }

    fn close(raw: Raw) -> Raw {
        Raw(raw.0 & !SUB_PAGE_TABLE_VALID)
    }

    /// Vectors have none.
    fn is_dirty(_: Raw) -> bool {
        false
    }

    fn clear_dirty(raw: Raw) -> Raw {
        raw
    }
}

impl SubPageFormat for TinySppt {
    fn vector(map: SubPageMap) -> Raw {
        Raw(u64::from(map.bits()))
    }
}
