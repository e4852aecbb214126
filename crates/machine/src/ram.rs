//! Guest RAM: anonymous host memory, of which untouched pages cost nothing.

use crate::error::RamError;
use std::sync::Arc;
use vellum_memory::Layout;
use vellum_pte::{Gfn, GfnRange, PAGE_SIZE, Pfn};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Where RAM begins, as on the usual RISC-V boards.
pub const RAM_BASE: Gfn = Gfn::new(0x8000_0000 / PAGE_SIZE);

/// A board's RAM. A host frame number here is an address of this process, in pages.
#[derive(Debug)]
pub(crate) struct Ram {
    memory: GuestMemoryMmap,
}

impl Ram {
    /// RAM for every region of `layout`. Regions of different address spaces that name the same
    /// pages share them.
    pub(crate) fn new(layout: &Layout) -> Result<Self, RamError> {
        let mut ranges: Vec<GfnRange> =
            layout.regions().iter().map(|region| region.range).collect();
        ranges.sort_by_key(|range| (range.first(), range.pages()));
        ranges.dedup();
        let regions = ranges.into_iter().map(map).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { memory: GuestMemoryMmap::from_arc_regions(regions)? })
    }

    /// The bytes.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The host frame of a guest page.
    pub(crate) fn frame(&self, gfn: Gfn) -> Option<Pfn> {
        let host = self.memory.get_host_address(GuestAddress(gfn.gpa().get())).ok()?;
        Some(Pfn::of_address(host.expose_provenance() as u64))
    }
}

/// vm-memory maps with `MAP_NORESERVE`, and the kernel backs a page when it is first touched.
fn map(range: GfnRange) -> Result<Arc<GuestRegionMmap>, RamError> {
    let bytes = range.pages().checked_mul(PAGE_SIZE).and_then(|bytes| usize::try_from(bytes).ok());
    let bytes = bytes.ok_or(RamError::TooLarge(range))?;
    let mapping = MmapRegion::new(bytes).map_err(|source| RamError::Refused { range, source })?;
    let base = GuestAddress(range.first().gpa().get());
    GuestRegionMmap::new(mapping, base).map(Arc::new).ok_or(RamError::PastTheEnd(range))
}
