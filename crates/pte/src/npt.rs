//! AMD nested page tables.

use crate::x86::{ADDRESS, Bits, disjoint};
use crate::{Entry, Format, Level, Raw};

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

const BITS: Bits = Bits {
    present: PRESENT,
    table: PRESENT | USER,
    leaf: PRESENT | USER,
    write: WRITE,
    huge: HUGE,
    accessed: ACCESSED,
    dirty: DIRTY,
    liftable: LIFTABLE,
};

/// AMD's nested page tables, four levels.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl Format for Npt {
    const NAME: &'static str = "npt";
    const ROOT: Level = Level::L4;
    const INDEX_BITS: u32 = 9;
    // AMD APM vol. 2, 5.5 and 15.16: a cached upper-level entry is used only together with the
    // protection accumulated on the way to it; removing permission asks for a flush, adding does
    // not.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;

    #[inline]
    fn encode(entry: Entry, level: Level) -> Raw {
        BITS.encode(entry, level)
    }

    #[inline]
    fn decode(raw: Raw, level: Level) -> Entry {
        BITS.decode(raw, level)
    }

    #[inline]
    fn is_present(raw: Raw) -> bool {
        raw.0 & BITS.present != 0
    }

    #[inline]
    fn is_storable(raw: Raw) -> bool {
        raw.0 & WRITE != 0
    }

    #[inline]
    fn is_liftable(raw: Raw) -> bool {
        raw.0 & LIFTABLE != 0
    }

    #[inline]
    fn open(raw: Raw) -> Raw {
        Raw(raw.0 | WRITE)
    }

    #[inline]
    fn close(raw: Raw) -> Raw {
        Raw(raw.0 & !WRITE)
    }
}
