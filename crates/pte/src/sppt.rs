//! Intel's sub-page permission table: what SPPTP points to.

use crate::bits::disjoint;
use crate::x86::{self, ADDRESS};
use crate::{Entry, Gate, Level, Raw, Replace, Root, SubPageFormat, SubPageMap, TableFormat};

// Intel SDM vol. 3C, 29.3.4 "Sub-Page Write Permissions": four levels, indexed by address bits
// 47:39, 38:30, 29:21 and 20:12.
//
// | bits  | name    | at         | owner   | meaning; invariant |
// |-------|---------|------------|---------|--------------------|
// | 0     | VALID   | levels 2-4 | library | the entry counts; clear, the walk is a miss; W1 |
// | 51:12 | ADDRESS | levels 2-4 | library | frame of the next table; kept where VALID is clear |
// | 2i    | PERMIT  | level 1    | library | sub-page i may be written; S1 |
// | 2i+1  | ODD     | level 1    | nobody  | reserved |
const VALID: u64 = 1 << 0;
const PERMIT: u64 = 0x5555_5555_5555_5555;
const _: () = assert!(disjoint(&[VALID, ADDRESS]));
const _: () = assert!(disjoint(&[PERMIT, PERMIT << 1]));

/// Intel's sub-page permission table, four levels.
///
/// A closed entry keeps its address and is not valid: the walk that meets it ends as a miss.
#[derive(Clone, Copy, Debug)]
pub struct Sppt;

impl TableFormat for Sppt {
    const INDEX_BITS: u32 = 9;
    // An entry that is not valid ends the walk (SDM vol. 3C, 29.3.4), so that nothing below it is
    // reached, and a cached one below a valid path was reached through it.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;
    const REPLACE: Replace = Replace::AtOnce;

    fn root(address_bits: u32) -> Option<Root> {
        x86::root(address_bits)
    }

    /// There are no leaves: a last-level entry is a [`vector`](SubPageFormat::vector).
    fn encode(entry: Entry, _: Level) -> Raw {
        Raw(match entry {
            Entry::Table { child, gate: Gate::Open, .. } => child.address() & ADDRESS | VALID,
            Entry::Table { child, gate: Gate::Closed, .. } => child.address() & ADDRESS,
            Entry::Absent | Entry::Frozen { .. } | Entry::Leaf(_) => 0,
        })
    }

    fn is_present(raw: Raw) -> bool {
        raw != Raw::ABSENT
    }

    fn is_storable(raw: Raw) -> bool {
        raw.0 & VALID != 0
    }

    fn open(raw: Raw) -> Raw {
        Raw(raw.0 | VALID)
    }

    fn close(raw: Raw) -> Raw {
        Raw(raw.0 & !VALID)
    }

    /// Vectors have none.
    fn is_dirty(_: Raw) -> bool {
        false
    }

    fn clear_dirty(raw: Raw) -> Raw {
        raw
    }
}

impl SubPageFormat for Sppt {
    fn vector(map: SubPageMap) -> Raw {
        Raw(spread(map.bits()))
    }
}

/// Puts bit i at place 2i.
fn spread(bits: u32) -> u64 {
    let step = |value: u64, by: u32, keep: u64| (value | value << by) & keep;
    let value = step(u64::from(bits), 16, 0x0000_ffff_0000_ffff);
    let value = step(value, 8, 0x00ff_00ff_00ff_00ff);
    let value = step(value, 4, 0x0f0f_0f0f_0f0f_0f0f);
    let value = step(value, 2, 0x3333_3333_3333_3333);
    step(value, 1, PERMIT)
}

/// What the walk of a sub-page permission table ended as: VM exit 66 (SDM vol. 3C, 29.3.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubPageEvent {
    /// An upper entry is not valid.
    Miss,
    /// A reserved bit is set somewhere.
    Misconfiguration,
}

impl SubPageEvent {
    /// From the exit qualification, bit 11.
    #[must_use]
    pub const fn from_qualification(qualification: u64) -> Self {
        if qualification >> 11 & 1 == 1 { Self::Miss } else { Self::Misconfiguration }
    }

    /// Whether the exit interrupted an IRET that had unblocked NMIs: exit qualification, bit 12.
    /// Then the hypervisor blocks them again before it enters the guest.
    #[must_use]
    pub const fn unblocked_nmi(qualification: u64) -> bool {
        qualification >> 12 & 1 == 1
    }
}
