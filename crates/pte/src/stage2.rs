//! Arm stage 2: VMSAv8-64, 4 KiB granule, 48-bit output addresses.

use crate::bits::{disjoint, when};
use crate::{
    ClearAccessed, ClosedTable, Entry, Format, Gate, Leaf, Level, Opened, Pfn, Raw, Replace, Root,
    Sppt, SubPageTables, TableFormat, Write,
};

// Arm ARM (DDI 0487) D8.3 "Translation table descriptor formats" and D8.3.2 "Stage 2 attribute
// fields". Arm counts levels downwards: its level 3 is our level 1, its level 0 our level 4.
//
// | bits  | name      | at              | owner    | meaning; invariant |
// |-------|-----------|-----------------|----------|--------------------|
// | 0     | VALID     | all             | library  | the entry counts; W1 above leaves |
// | 1     | TABLE     | table, 4K page  | library  | clear in a block (levels 2 and 3) |
// | 5:2   | MEMATTR   | leaf            | library  | 0b1111 = normal, write-back |
// | 6     | READ      | leaf            | library  | S2AP[0] |
// | 7     | WRITE     | leaf            | both     | S2AP[1]; set by hardware where DBM is: then it is D; W2, T1 |
// | 9:8   | SHARE     | leaf            | library  | 0b11 = inner shareable |
// | 10    | ACCESSED  | leaf            | both     | AF; set by hardware if VTCR_EL2.HA is; T1 |
// | 47:12 | ADDRESS   | all             | library  | frame |
// | 51    | DBM       | leaf            | library  | a store may set WRITE, if VTCR_EL2.HD is; W2 |
// | 54:53 | XN        | leaf            | library  | no execution; always clear |
// | 55    | LIFTABLE  | leaf            | software | only logging keeps it read-only |
// | 56    | LEAF      | leaf            | software | tells a page from a table without the level |
// | 57    | PARKED    | VALID = 0       | software | a closed table, its address kept; W1 |
// | 58    | WAS_DIRTY | leaf            | software | D of a leaf that is not storable |
// | 59    | FROZEN    | VALID = 0       | software | a replacement is under way |
const VALID: u64 = 1 << 0;
const TABLE: u64 = 1 << 1;
const MEMATTR: u64 = 0xf << 2;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const SHARE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const DBM: u64 = 1 << 51;
const XN: u64 = 3 << 53;
const LIFTABLE: u64 = 1 << 55;
const LEAF: u64 = 1 << 56;
const PARKED: u64 = 1 << 57;
const WAS_DIRTY: u64 = 1 << 58;
const FROZEN: u64 = 1 << 59;
const _: () = assert!(disjoint(&[
    VALID, TABLE, MEMATTR, READ, WRITE, SHARE, ACCESSED, ADDRESS, DBM, XN, LIFTABLE, LEAF, PARKED,
    WAS_DIRTY, FROZEN
]));

/// In every leaf: normal memory, write-back, inner shareable, readable, executable.
const MEMORY: u64 = VALID | MEMATTR | READ | SHARE | LEAF;

/// Arm's stage-2 tables with a 4 KiB granule.
///
/// Table descriptors carry no permissions, so a closed one is parked: see
/// [`ClosedTable::Parked`]. The processor is told VTCR_EL2.{TG0 = 4 KiB, IRGN0/ORGN0 = write-back,
/// SH0 = inner shareable}, T0SZ and SL0 as [`root`](TableFormat::root) says, and may be told HA and HD.
#[derive(Clone, Copy, Debug)]
pub struct Stage2;

impl Stage2 {
    /// Up to so many root tables are concatenated, for 4 more bits of address.
    const CONCATENATED_BITS: u32 = 4;
    const PAGE_BITS: u32 = 12;
    /// Fewer would need a root at level 1.
    const FEWEST_BITS: u32 = 32;
    const MOST_BITS: u32 = 48;

    fn encode_leaf(leaf: Leaf, level: Level) -> u64 {
        let write = match (leaf.write, leaf.dirty) {
            (Write::Storable, true) => DBM | WRITE | LIFTABLE,
            (Write::Storable, false) => DBM | LIFTABLE,
            (Write::Liftable, dirty) => LIFTABLE | when(dirty, WAS_DIRTY),
            (Write::Denied | Write::Partial, dirty) => when(dirty, WAS_DIRTY),
        };
        leaf.frame.address() & ADDRESS
            | MEMORY
            | write
            | when(level == Level::L1, TABLE)
            | when(leaf.accessed, ACCESSED)
    }

    fn decode_leaf(raw: Raw) -> Leaf {
        let storable = Self::is_storable_leaf(raw);
        Leaf {
            frame: frame(raw),
            write: match (storable, raw.0 & LIFTABLE != 0) {
                (true, _) => Write::Storable,
                (false, true) => Write::Liftable,
                (false, false) => Write::Denied,
            },
            accessed: raw.0 & ACCESSED != 0,
            dirty: raw.0 & if storable { WRITE } else { WAS_DIRTY } != 0,
        }
    }

    fn decode_invalid(raw: Raw) -> Entry {
        match (raw.0 & FROZEN != 0, raw.0 & PARKED != 0) {
            (true, _) => Entry::Frozen { table: frame(raw) },
            (false, true) => Entry::table(frame(raw), Gate::Closed),
            (false, false) => Entry::Absent,
        }
    }

    #[inline]
    const fn is_storable_leaf(raw: Raw) -> bool {
        raw.0 & (WRITE | DBM) != 0
    }
}

const fn frame(raw: Raw) -> Pfn {
    Pfn::of_address(raw.0 & ADDRESS)
}

impl TableFormat for Stage2 {
    const INDEX_BITS: u32 = 9;
    // A closed entry is invalid, and invalid entries are never cached (Arm ARM D8.16.1: a TLB holds
    // no entry for a descriptor that generates a translation fault). So after the root's shoot-down
    // nothing is cached below a parked entry until it is linked again.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;
    // D8.16.1 "Using break-before-make when updating translation table entries". FEAT_BBM relaxes
    // it; this format does not rely on that.
    const REPLACE: Replace = Replace::BreakFirst;

    /// As few levels as possible: up to sixteen root tables are concatenated (Arm ARM D8.2.7).
    fn root(address_bits: u32) -> Option<Root> {
        if !(Self::FEWEST_BITS..=Self::MOST_BITS).contains(&address_bits) {
            return None;
        }
        let of_tables = |levels| Self::PAGE_BITS + levels * Self::INDEX_BITS;
        let enough = |levels: &u32| of_tables(*levels) + Self::CONCATENATED_BITS >= address_bits;
        let levels = (2..=4).find(enough)?;
        let level = [Level::L2, Level::L3, Level::L4][levels as usize - 2];
        Some(Root { level, tables: 1 << address_bits.saturating_sub(of_tables(levels)) })
    }

    #[inline]
    fn encode(entry: Entry, level: Level) -> Raw {
        Raw(match entry {
            Entry::Absent => 0,
            Entry::Frozen { table } => table.address() & ADDRESS | FROZEN,
            Entry::Table { child, gate: Gate::Open, .. } => {
                child.address() & ADDRESS | VALID | TABLE
            }
            Entry::Table { child, gate: Gate::Closed, .. } => {
                child.address() & ADDRESS | PARKED | TABLE
            }
            Entry::Leaf(leaf) => Self::encode_leaf(leaf, level),
        })
    }

    #[inline]
    fn is_present(raw: Raw) -> bool {
        raw.0 & (VALID | PARKED | FROZEN) != 0
    }

    #[inline]
    fn is_storable(raw: Raw) -> bool {
        raw.0 & VALID != 0 && (raw.0 & LEAF == 0 || Self::is_storable_leaf(raw))
    }

    #[inline]
    fn open(raw: Raw) -> Raw {
        if raw.0 & LEAF != 0 {
            Raw(raw.0 & !WAS_DIRTY | WRITE | DBM)
        } else {
            Raw(raw.0 & !PARKED | VALID)
        }
    }

    #[inline]
    fn close(raw: Raw) -> Raw {
        if !Self::is_storable(raw) {
            raw
        } else if raw.0 & LEAF != 0 {
            Raw(raw.0 & !(WRITE | DBM) | when(raw.0 & WRITE != 0, WAS_DIRTY))
        } else {
            Raw(raw.0 & !VALID | PARKED)
        }
    }

    #[inline]
    fn is_dirty(raw: Raw) -> bool {
        raw.0 & (WRITE | WAS_DIRTY) != 0
    }

    /// A storable leaf keeps DBM: hardware sets `S2AP[1]` again, if `VTCR_EL2.HD` tells it to.
    #[inline]
    fn clear_dirty(raw: Raw) -> Raw {
        Raw(raw.0 & !(WRITE | WAS_DIRTY))
    }
}

impl Format for Stage2 {
    const NAME: &'static str = "stage2";
    const ADDRESS_BITS: u32 = 40;
    // D8.3.1: stage 2 table descriptors have no attributes.
    const CLOSED_TABLE: ClosedTable = ClosedTable::Parked;
    // D8.5: without FEAT_HAFDBS or VTCR_EL2.HA, an access through a leaf with AF = 0 faults.
    const CLEAR_ACCESSED: ClearAccessed = ClearAccessed::MayFault;
    // D8.5.5: with DBM set, S2AP[1] is the dirty state; without FEAT_HAFDBS only S2AP[1] lets a
    // store pass.
    const OPENED: Opened = Opened::IsDirty;
    const SUB_PAGES: SubPageTables = SubPageTables::None;
    type SubPages = Sppt;

    #[inline]
    fn decode(raw: Raw, level: Level) -> Entry {
        if raw.0 & VALID == 0 {
            return Self::decode_invalid(raw);
        }
        match (raw.0 & TABLE != 0, level) {
            (true, Level::L1) | (false, Level::L2 | Level::L3) => {
                Entry::Leaf(Self::decode_leaf(raw))
            }
            (true, _) => Entry::table(frame(raw), Gate::Open),
            // Reserved, and as good as invalid.
            (false, _) => Entry::Absent,
        }
    }

    #[inline]
    fn is_leaf(raw: Raw, _: Level) -> bool {
        raw.0 & (VALID | LEAF) == VALID | LEAF
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
