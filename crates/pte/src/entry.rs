//! What an entry means, whatever its spelling.

use crate::address::Pfn;

/// Whether stores pass an entry that points to a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// Stores pass, subject to the entries below.
    Open,
    /// No store passes, whatever the entries below say: write-protect-all is on and the table
    /// below has not been settled yet.
    Closed,
}

/// Whether stores pass a leaf, and if not, who forbids it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Write {
    /// A store retires without a fault.
    Storable,
    /// A store faults, and only because of logging: the fault may make the leaf storable.
    Liftable,
    /// A store faults, and something other than logging forbids it (a read-only slot or backing, a
    /// tracked page, a map of sub-pages).
    Denied,
    /// A store retires where the table of sub-page permissions says so, and faults elsewhere, even
    /// below a closed entry. Leaves of 4 KiB only, and only in formats that have such tables
    /// ([`SubPageTables::Present`](crate::SubPageTables::Present)).
    Partial,
}

/// A mapped page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Leaf {
    /// The first host frame; for a huge leaf aligned to its size.
    pub frame: Pfn,
    /// Whether stores pass.
    pub write: Write,
    /// Hardware's A bit: accessed since it was last cleared.
    pub accessed: bool,
    /// Hardware's D bit: written since it was last cleared.
    pub dirty: bool,
}

impl Leaf {
    /// A leaf with hardware's bits clear.
    #[must_use]
    pub const fn new(frame: Pfn, write: Write) -> Self {
        Self { frame, write, accessed: false, dirty: false }
    }
}

/// What one entry says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// Nothing is mapped: any access faults.
    Absent,
    /// Nothing is mapped for now: somebody replaces a table by a leaf or a leaf by a table, and an
    /// access that faults meanwhile is tried again.
    Frozen {
        /// The frame of the table that comes or goes: it tells one replacement from another.
        table: Pfn,
    },
    /// A further table.
    Table {
        /// The frame that holds it.
        child: Pfn,
        /// Whether stores pass.
        gate: Gate,
        /// Hardware's A bit.
        accessed: bool,
    },
    /// A page.
    Leaf(Leaf),
}

impl Entry {
    /// An entry for the table in `child`, not yet accessed.
    #[must_use]
    pub const fn table(child: Pfn, gate: Gate) -> Self {
        Self::Table { child, gate, accessed: false }
    }
}
