//! Operations as data. Slots are named by small numbers, pages by their offset from the ground's
//! first.

use crate::hypervisor::Change;
use crate::model::Stays;
use vellum_mmu::{Again, Initial, LogMode, SlotAccess};

/// One operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates a slot.
    Create {
        /// Its name.
        id: u16,
        /// Its address space: 2 does not exist.
        space: u16,
        /// Its first page.
        first: u64,
        /// Its pages.
        pages: u64,
        /// Whether it may be written.
        access: SlotAccess,
        /// Whether it is logged from the start.
        log: LogMode,
    },
    /// Moves a slot, starts or stops its log, or asks for what cannot be.
    Change {
        /// The slot.
        id: u16,
        /// Its new first page, if it moves.
        first: Option<u64>,
        /// Whether it is to be logged.
        log: LogMode,
        /// What cannot change about it and is asked for all the same.
        fixed: Option<Fixed>,
    },
    /// Deletes a slot.
    Delete(u16),
    /// Starts a slot's log.
    Start(u16, Initial),
    /// Stops it.
    Stop(u16),
    /// A CPU stores.
    Store {
        /// Which.
        cpu: usize,
        /// The page.
        page: u64,
        /// Which eight bytes of it, below 512.
        word: u64,
        /// What.
        value: u64,
    },
    /// A CPU stores any bytes anywhere, across pages too.
    StoreBytes {
        /// Which.
        cpu: usize,
        /// Where, in bytes from the ground's first page.
        at: u64,
        /// What, 16 bytes at most.
        bytes: Vec<u8>,
    },
    /// A CPU sets bits in the guest's own page tables.
    Walk {
        /// Which.
        cpu: usize,
        /// The page.
        page: u64,
        /// Which eight bytes of it, below 512.
        word: u64,
        /// What is there then.
        value: u64,
    },
    /// A CPU loads.
    Load {
        /// Which.
        cpu: usize,
        /// The page.
        page: u64,
        /// Which eight bytes of it.
        word: u64,
    },
    /// Harvests one slot by pages.
    TakePages(u16),
    /// Harvests all slots without protection, then protects all.
    TakeAll,
    /// Looks at a slot's log.
    Read(u16),
    /// Clears a part of it.
    Clear {
        /// The slot.
        id: u16,
        /// The first page, by its place in the slot.
        first: u64,
        /// How many; none for all up to the slot's end.
        pages: Option<u64>,
        /// A word for each 64.
        mask: Vec<u64>,
    },
    /// Takes out of the logs what the guest does not need.
    Forget {
        /// The address space.
        space: u16,
        /// The first page.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// Protects all, with no harvest.
    ProtectAll,
    /// Ends that.
    ProtectAllOff,
    /// Gives pages back.
    Owe {
        /// The slot.
        id: u16,
        /// The group of 64.
        word: u64,
        /// Which of it.
        mask: u64,
    },
    /// Writes without a vCPU; may cross pages.
    DeviceWrite {
        /// The address space.
        space: u16,
        /// Where, in bytes from the ground's first page.
        at: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Reports a write that nobody else logs.
    Mark {
        /// The address space.
        space: u16,
        /// The page.
        page: u64,
    },
    /// Splits huge leaves.
    SplitHuge {
        /// The slot.
        id: u16,
        /// For so many tables at most.
        frames: u64,
    },
    /// Brings huge leaves back.
    RecoverHuge(u16),
    /// Asks which pages were used.
    Age {
        /// The slot.
        id: u16,
        /// The first page.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// Lets pages be tracked.
    EnableTracking,
    /// Registers a listener.
    Listen(u16, Stays),
    /// Ends that.
    Unlisten(u16),
    /// Tracks a page once more.
    Track {
        /// The address space.
        space: u16,
        /// The page.
        page: u64,
    },
    /// Tracks a page once less.
    Untrack {
        /// The address space.
        space: u16,
        /// The page.
        page: u64,
    },
    /// Lets maps of sub-pages be set.
    Activate,
    /// Lets the VM run guests of its own.
    AllowNested,
    /// Gives consecutive pages maps of their sub-pages.
    SetMaps {
        /// The address space.
        space: u16,
        /// The first page.
        first: u64,
        /// How: 0, or what is not known.
        flags: u32,
        /// The maps.
        maps: Vec<u32>,
    },
    /// Looks at them.
    GetMaps {
        /// The address space.
        space: u16,
        /// The first page.
        first: u64,
        /// How many.
        pages: usize,
        /// How: 0, or what is not known.
        flags: u32,
    },
    /// Harvests all dirty rings.
    HarvestRings,
    /// Takes back what was harvested.
    ResetRings(Again),
    /// Both, as a consumer does.
    EmptyRings(Again),
    /// A CPU stores to one page after the other, and is not asked in between whether its ring has room.
    Flood {
        /// Which.
        cpu: usize,
        /// The first page.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// A vCPU goes; another comes in its place with the CPU's next access.
    Leave(usize),
    /// Somebody writes to a CPU's page-modification log.
    Forge {
        /// Whose.
        cpu: usize,
        /// What.
        address: u64,
    },
    /// Changes what is behind some pages.
    Invalidate {
        /// The first page, where a slot that never moved shows it.
        first: u64,
        /// How many.
        pages: u64,
        /// How it changes.
        change: Change,
        /// What happens until it is over.
        meanwhile: Vec<Op>,
    },
}

impl Op {
    /// What becomes of leaves that stores pass.
    pub(super) const fn keeps_leaves(&self) -> Leaves {
        match self {
            Self::Store { .. } | Self::StoreBytes { .. } | Self::Walk { .. } => Leaves::Stay,
            Self::Load { .. } | Self::Flood { .. } | Self::DeviceWrite { .. } => Leaves::Stay,
            Self::HarvestRings | Self::Leave(_) | Self::Forge { .. } => Leaves::Stay,
            Self::Read(_) | Self::Owe { .. } | Self::Mark { .. } => Leaves::Stay,
            Self::Listen(..) | Self::Unlisten(_) | Self::GetMaps { .. } => Leaves::Stay,
            _ => Leaves::MayChange,
        }
    }
}

/// What becomes of leaves that stores pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaves {
    /// Stores pass them still.
    Stay,
    /// Stores may not pass some any more.
    MayChange,
}

/// What a slot keeps for life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fixed {
    /// How many pages it has.
    Size,
    /// Its address space.
    Space,
    /// Whether it may be written.
    Access,
    /// Its memory.
    Memory,
}
