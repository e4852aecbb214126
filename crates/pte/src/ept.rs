//! Intel EPT.

use crate::bits::{ADDRESS, disjoint, when};
use crate::{Entry, Format, Gate, Leaf, Level, Pfn, Raw, Write};

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
// | 61    | SPP      | 4 KiB leaf       | library  | sub-page write permissions; reserved here for them |
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
const SPP: u64 = 1 << 61;
const VE: u64 = 1 << 63;
const _: () = assert!(disjoint(&[
    READ, WRITE, EXECUTE, MEMTYPE, HUGE, ACCESSED, DIRTY, ADDRESS, LIFTABLE, SPP, VE
]));
const _: () = assert!(WRITE_BACK & !MEMTYPE == 0);

/// Intel's extended page tables, four levels.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

impl Ept {
    fn encode_leaf(leaf: Leaf, level: Level) -> u64 {
        leaf.frame.address() & ADDRESS
            | READ
            | EXECUTE
            | WRITE_BACK
            | when(leaf.write == Write::Storable, WRITE)
            | when(leaf.write != Write::Denied, LIFTABLE)
            | when(level > Level::L1, HUGE)
            | when(leaf.accessed, ACCESSED)
            | when(leaf.dirty, DIRTY)
    }

    fn decode_leaf(raw: Raw) -> Leaf {
        Leaf {
            frame: Pfn::of_address(raw.0 & ADDRESS),
            write: match (Self::is_storable(raw), Self::is_liftable(raw)) {
                (true, _) => Write::Storable,
                (false, true) => Write::Liftable,
                (false, false) => Write::Denied,
            },
            accessed: raw.0 & ACCESSED != 0,
            dirty: raw.0 & DIRTY != 0,
        }
    }
}

impl Format for Ept {
    const NAME: &'static str = "ept";
    const ROOT: Level = Level::L4;
    const INDEX_BITS: u32 = 9;
    // Intel SDM vol. 3C, 29.4.2: guest-physical and combined paging-structure-cache entries hold
    // the logical AND of the permissions of the entries used to reach them.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;

    fn encode(entry: Entry, level: Level) -> Raw {
        Raw(match entry {
            Entry::Absent => 0,
            Entry::Table { child, gate, accessed } => {
                child.address() & ADDRESS
                    | READ
                    | EXECUTE
                    | when(gate == Gate::Open, WRITE)
                    | when(accessed, ACCESSED)
            }
            Entry::Leaf(leaf) => Self::encode_leaf(leaf, level),
        })
    }

    fn decode(raw: Raw, level: Level) -> Entry {
        if !Self::is_present(raw) {
            Entry::Absent
        } else if level == Level::L1 || raw.0 & HUGE != 0 {
            Entry::Leaf(Self::decode_leaf(raw))
        } else {
            Entry::Table {
                child: Pfn::of_address(raw.0 & ADDRESS),
                gate: if Self::is_storable(raw) { Gate::Open } else { Gate::Closed },
                accessed: raw.0 & ACCESSED != 0,
            }
        }
    }

    fn is_present(raw: Raw) -> bool {
        raw.0 & (READ | WRITE | EXECUTE) != 0
    }

    fn is_storable(raw: Raw) -> bool {
        raw.0 & WRITE != 0
    }

    fn is_liftable(raw: Raw) -> bool {
        raw.0 & LIFTABLE != 0
    }

    fn open(raw: Raw) -> Raw {
        Raw(raw.0 | WRITE)
    }

    fn close(raw: Raw) -> Raw {
        Raw(raw.0 & !WRITE)
    }
}
