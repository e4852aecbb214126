//! What the two x86 formats have in common: the same things at different places.

use crate::bits::when;
use crate::{Entry, Gate, Leaf, Level, Pfn, Raw, Root, Write};

/// Bits 51:12, a frame's address in both formats.
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a format keeps what.
pub(crate) struct Bits {
    /// Any of these: something is mapped.
    pub(crate) present: u64,
    /// Set in each entry that points to a table.
    pub(crate) table: u64,
    /// Set in each leaf.
    pub(crate) leaf: u64,
    /// Stores pass.
    pub(crate) write: u64,
    /// Above the last level: the entry is a leaf.
    pub(crate) huge: u64,
    /// Hardware's A.
    pub(crate) accessed: u64,
    /// Hardware's D.
    pub(crate) dirty: u64,
    /// Only logging keeps the leaf read-only.
    pub(crate) liftable: u64,
    /// In a 4 KiB leaf: a table of sub-pages decides about stores; 0 where there is no such bit.
    pub(crate) partial: u64,
    /// Nothing is present and a replacement is under way.
    pub(crate) frozen: u64,
}

/// Four levels: 48 bits of guest address.
pub(crate) const ADDRESS_BITS: u32 = 48;

/// One root table of four levels, however much of it is used.
pub(crate) const fn root(address_bits: u32) -> Option<Root> {
    if address_bits <= ADDRESS_BITS { Some(Root { level: Level::L4, tables: 1 }) } else { None }
}

impl Bits {
    #[inline]
    pub(crate) fn encode(&self, entry: Entry, level: Level) -> Raw {
        Raw(match entry {
            Entry::Absent => 0,
            Entry::Frozen { table } => table.address() & ADDRESS | self.frozen,
            Entry::Table { child, gate, accessed } => {
                child.address() & ADDRESS
                    | self.table
                    | when(gate == Gate::Open, self.write)
                    | when(accessed, self.accessed)
            }
            Entry::Leaf(leaf) => self.encode_leaf(leaf, level),
        })
    }

    fn encode_leaf(&self, leaf: Leaf, level: Level) -> u64 {
        leaf.frame.address() & ADDRESS
            | self.leaf
            | when(leaf.write == Write::Storable, self.write)
            | when(matches!(leaf.write, Write::Storable | Write::Liftable), self.liftable)
            | when(leaf.write == Write::Partial && level == Level::L1, self.partial)
            | when(level > Level::L1, self.huge)
            | when(leaf.accessed, self.accessed)
            | when(leaf.dirty, self.dirty)
    }

    #[inline]
    pub(crate) fn decode(&self, raw: Raw, level: Level) -> Entry {
        if raw.0 & self.present == 0 {
            self.decode_not_present(raw)
        } else if self.is_leaf(raw, level) {
            Entry::Leaf(self.decode_leaf(raw, level))
        } else {
            Entry::Table {
                child: frame(raw),
                gate: if raw.0 & self.write != 0 { Gate::Open } else { Gate::Closed },
                accessed: raw.0 & self.accessed != 0,
            }
        }
    }

    fn decode_not_present(&self, raw: Raw) -> Entry {
        if raw.0 & self.frozen == 0 { Entry::Absent } else { Entry::Frozen { table: frame(raw) } }
    }

    #[inline]
    pub(crate) const fn is_present(&self, raw: Raw) -> bool {
        raw.0 & (self.present | self.frozen) != 0
    }

    #[inline]
    pub(crate) fn is_leaf(&self, raw: Raw, level: Level) -> bool {
        raw.0 & self.present != 0 && (level == Level::L1 || raw.0 & self.huge != 0)
    }

    fn decode_leaf(&self, raw: Raw, level: Level) -> Leaf {
        let partial = if level == Level::L1 { self.partial } else { 0 };
        Leaf {
            frame: frame(raw),
            write: match raw.0 {
                bits if bits & self.write != 0 => Write::Storable,
                bits if bits & partial != 0 => Write::Partial,
                bits if bits & self.liftable != 0 => Write::Liftable,
                _ => Write::Denied,
            },
            accessed: raw.0 & self.accessed != 0,
            dirty: raw.0 & self.dirty != 0,
        }
    }
}

const fn frame(raw: Raw) -> Pfn {
    Pfn::of_address(raw.0 & ADDRESS)
}
