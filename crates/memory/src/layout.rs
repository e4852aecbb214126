//! Where a guest's memory is.

use alloc::vec::Vec;
use vellum_pte::{AddressSpace, GfnRange, SlotId};

/// One memslot as consumers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The embedder's name for it.
    pub slot: SlotId,
    /// The address space that its frame numbers belong to.
    pub space: AddressSpace,
    /// Its pages.
    pub range: GfnRange,
}

/// All regions of a guest, in a fixed order: a region is named by its place here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    regions: Vec<Region>,
}

/// Why a list of regions is no layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// Two regions of one address space share a page.
    #[error("region {second} overlaps region {first}")]
    Overlap {
        /// The place of the earlier region.
        first: usize,
        /// The place of the later region.
        second: usize,
    },
    /// A region has no pages.
    #[error("region {0} is empty")]
    Empty(usize),
}

impl Layout {
    /// Checks and keeps `regions`.
    ///
    /// # Errors
    /// [`LayoutError`] where a region is empty or two of one address space overlap.
    pub fn new(regions: Vec<Region>) -> Result<Self, LayoutError> {
        for (second, late) in regions.iter().enumerate() {
            if late.range.pages() == 0 {
                return Err(LayoutError::Empty(second));
            }
            let clash = regions[..second]
                .iter()
                .position(|early| early.space == late.space && early.range.overlaps(late.range));
            if let Some(first) = clash {
                return Err(LayoutError::Overlap { first, second });
            }
        }
        Ok(Self { regions })
    }

    /// The regions in their order.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The place of the region that is memslot `slot`.
    #[must_use]
    pub fn position(&self, slot: SlotId) -> Option<usize> {
        self.regions.iter().position(|region| region.slot == slot)
    }

    /// All pages of all regions; `u64::MAX` if they are more.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.regions.iter().fold(0, |sum, region| sum.saturating_add(region.range.pages()))
    }
}
