//! Formats small enough for loom: tables of two entries, four pages under two levels. One is like
//! x86, one like Arm; they differ in what closes a table, how sizes are exchanged, and what a leaf
//! without A does.

use std::marker::PhantomData;
use vellum_pte::{
    ClearAccessed, ClosedTable, Entry, Format, Gate, Leaf, Level, Opened, PAGE_SHIFT, Pfn, Raw,
    Replace, Root, Write,
};

/// Which architecture a tiny format is like.
pub trait Like: Send + Sync + 'static {
    const NAME: &'static str;
    const CLOSED_TABLE: ClosedTable;
    const REPLACE: Replace;
    const CLEAR_ACCESSED: ClearAccessed;
    /// log2 of the most root tables that may lie side by side.
    const CONCATENATED_BITS: u32;
}

/// Closed tables are read-only, sizes are exchanged at once, a leaf without A is as good.
pub struct LikeX86;

impl Like for LikeX86 {
    const NAME: &'static str = "like x86";
    const CLOSED_TABLE: ClosedTable = ClosedTable::ReadOnly;
    const REPLACE: Replace = Replace::AtOnce;
    const CLEAR_ACCESSED: ClearAccessed = ClearAccessed::Passes;
    const CONCATENATED_BITS: u32 = 0;
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
// | 63:12 | ADDRESS  | all         | frame                                   |
const VALID: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LIFTABLE: u64 = 1 << 2;
const LEAF: u64 = 1 << 3;
const ACCESSED: u64 = 1 << 4;
const PARKED: u64 = 1 << 5;
const FROZEN: u64 = 1 << 6;

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
        | when(leaf.write != Write::Denied, LIFTABLE)
        | when(leaf.accessed, ACCESSED)
}

fn decode_leaf(raw: Raw) -> Leaf {
    let write = match (raw.0 & WRITE != 0, raw.0 & LIFTABLE != 0) {
        (true, _) => Write::Storable,
        (false, true) => Write::Liftable,
        (false, false) => Write::Denied,
    };
    Leaf { accessed: raw.0 & ACCESSED != 0, ..Leaf::new(frame(raw), write) }
}

impl<A: Like> Tiny<A> {
    const PARKS: bool = matches!(A::CLOSED_TABLE, ClosedTable::Parked);
    const CLOSED: u64 = if Self::PARKS { PARKED } else { VALID };
}

impl<A: Like> Format for Tiny<A> {
    const NAME: &'static str = A::NAME;
    const ADDRESS_BITS: u32 = PAGE_SHIFT + 2;
    const INDEX_BITS: u32 = 1;
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;
    const CLOSED_TABLE: ClosedTable = A::CLOSED_TABLE;
    const REPLACE: Replace = A::REPLACE;
    const CLEAR_ACCESSED: ClearAccessed = A::CLEAR_ACCESSED;
    const OPENED: Opened = Opened::KeepsDirty;

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

    fn is_present(raw: Raw) -> bool {
        raw.0 & (VALID | PARKED | FROZEN) != 0
    }

    fn is_leaf(raw: Raw, _: Level) -> bool {
        raw.0 & LEAF != 0
    }

    fn is_storable(raw: Raw) -> bool {
        raw.0 & WRITE != 0
    }

    fn is_liftable(raw: Raw) -> bool {
        raw.0 & LIFTABLE != 0
    }

    fn is_accessed(raw: Raw) -> bool {
        raw.0 & ACCESSED != 0
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
            _ => Raw(raw.0 & !WRITE),
        }
    }

    fn set_accessed(raw: Raw) -> Raw {
        Raw(raw.0 | ACCESSED)
    }

    fn clear_accessed(raw: Raw) -> Raw {
        Raw(raw.0 & !ACCESSED)
    }
}
