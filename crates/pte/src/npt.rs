//! AMD nested page tables.

use crate::bits::{ADDRESS, disjoint, when};
use crate::{Entry, Format, Gate, Leaf, Level, Pfn, Raw, Write};

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
// | 63    | NX       | all         | library  | no execution; always clear |
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const HUGE: u64 = 1 << 7;
const LIFTABLE: u64 = 1 << 52;
const NX: u64 = 1 << 63;
const _: () =
    assert!(disjoint(&[PRESENT, WRITE, USER, ACCESSED, DIRTY, HUGE, ADDRESS, LIFTABLE, NX]));

/// AMD's nested page tables, four levels.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl Npt {
    fn encode_leaf(leaf: Leaf, level: Level) -> u64 {
        leaf.frame.address() & ADDRESS
            | PRESENT
            | USER
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

impl Format for Npt {
    const NAME: &'static str = "npt";
    const ROOT: Level = Level::L4;
    const INDEX_BITS: u32 = 9;
    // AMD APM vol. 2, 5.5 and 15.16: a cached upper-level entry is used only together with the
    // protection accumulated on the way to it; removing permission asks for a flush, adding does
    // not.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;

    fn encode(entry: Entry, level: Level) -> Raw {
        Raw(match entry {
            Entry::Absent => 0,
            Entry::Table { child, gate, accessed } => {
                child.address() & ADDRESS
                    | PRESENT
                    | USER
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
        raw.0 & PRESENT != 0
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
