//! The ways to find out about writes that are shown.

use crate::guest::LeafUpdates;
use crate::host::Host;
use vellum_memory::RegionSet;
use vellum_mmu::{AccessedBits, Config, DirtyBits, LogError, Mmu, Protect};
use vellum_pte::{SlotId, Stage2};

/// How the guest's writes are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Each harvested page is write-protected by itself.
    Pages,
    /// All of memory is write-protected at once.
    ProtectAll,
    /// The processor says which pages it stored to.
    DirtyBits,
    /// The same, and all of memory is write-protected at once: only what was touched is looked at.
    DirtyBitsAndProtectAll,
    /// Page by page, and every now and then not at all: huge leaves come back, and are split again.
    HugeLeaves,
}

impl Way {
    /// As the number that was handed over names it.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        let all = [
            Self::Pages,
            Self::ProtectAll,
            Self::DirtyBits,
            Self::DirtyBitsAndProtectAll,
            Self::HugeLeaves,
        ];
        all.get(usize::try_from(number).ok()?).copied()
    }

    /// How it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pages => "per-page",
            Self::ProtectAll => "protect-all",
            Self::DirtyBits => "dirty-bits",
            Self::DirtyBitsAndProtectAll => "dirty-bits-protect-all",
            Self::HugeLeaves => "huge-leaves",
        }
    }

    /// A VM that is tracked in this way.
    pub(crate) fn config(self) -> Config {
        let (accessed, dirty_bits) = match self {
            Self::Pages | Self::ProtectAll | Self::HugeLeaves => {
                (AccessedBits::NotSet, DirtyBits::Unused)
            }
            Self::DirtyBits | Self::DirtyBitsAndProtectAll => {
                (AccessedBits::Set, DirtyBits::Scanned)
            }
        };
        Config { accessed, dirty_bits, ..Config::default() }
    }

    /// What the processor does by itself then.
    pub(crate) fn leaf_updates(self) -> LeafUpdates {
        match self {
            Self::Pages | Self::ProtectAll | Self::HugeLeaves => LeafUpdates::None,
            Self::DirtyBits | Self::DirtyBitsAndProtectAll => LeafUpdates::AccessedAndDirty,
        }
    }

    /// After how many harvests the log stops for a while, if it does.
    pub(crate) fn harvests_of_a_log(self) -> Option<usize> {
        (self == Self::HugeLeaves).then_some(8)
    }

    /// Takes the dirty pages of a slot, so that every later store to them is heard of again.
    ///
    /// # Errors
    /// [`LogError`].
    pub(crate) fn harvest(
        self,
        mmu: &Mmu<Stage2, Host>,
        slot: SlotId,
        into: &mut RegionSet,
    ) -> Result<(), LogError> {
        match self {
            Self::Pages | Self::DirtyBits | Self::HugeLeaves => {
                mmu.take_dirty(slot, Protect::Pages, into)
            }
            Self::ProtectAll | Self::DirtyBitsAndProtectAll => {
                mmu.take_dirty(slot, Protect::Nothing, into)?;
                mmu.write_protect_all();
                Ok(())
            }
        }
    }
}
