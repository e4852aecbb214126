//! A second look at guest memory, whose writes are logged.
#![allow(unsafe_code)]

use super::logged::Logged;
use crate::mark::Mark;
use vellum_pte::{AddressSpace, Gpa};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionCollectionError,
    GuestRegionMmap, MmapRegion,
};

/// Why there is no view of a guest's memory.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The mapping of a region cannot be looked at a second time.
    #[error("the region at {base}: {source}")]
    Mapping {
        /// Where the region begins.
        base: Gpa,
        /// What vm-memory said.
        source: MmapRegionError,
    },
    /// A region ends past the last address.
    #[error("the region at {0} ends past the last address")]
    PastTheEnd(Gpa),
    /// There are no regions, or they are no memory together.
    #[error(transparent)]
    Regions(#[from] GuestRegionCollectionError),
}

/// The same memory as `memory`, with every write reported to `marks` as one to `space`: what to give
/// to rust-vmm devices. The bytes are shared, nothing is mapped again, and what is written through
/// `memory` itself is not reported.
///
/// The view and its clones keep the mappings alive, also after `memory` is gone. It has their regions,
/// files, protection and flags; what is added to `memory` later is not in it.
///
/// # Errors
/// [`ViewError`].
pub fn logged_view<M: Mark + Clone + 'static>(
    memory: &GuestMemoryMmap,
    space: AddressSpace,
    marks: &M,
) -> Result<GuestMemoryMmap<Logged<M>>, ViewError> {
    let view = |region| view_of(region, space, marks.clone());
    let regions = memory.iter().map(view).collect::<Result<Vec<_>, _>>()?;
    Ok(GuestMemoryMmap::from_regions(regions)?)
}

fn view_of<M: Mark + 'static>(
    region: &GuestRegionMmap,
    space: AddressSpace,
    marks: M,
) -> Result<GuestRegionMmap<Logged<M>>, ViewError> {
    let base = Gpa::new(region.start_addr().0);
    let mapping = look_again(region, Logged::new(marks, space, base))
        .map_err(|source| ViewError::Mapping { base, source })?;
    GuestRegionMmap::new(mapping, region.start_addr()).ok_or(ViewError::PastTheEnd(base))
}

/// The region's mapping with another bitmap.
fn look_again<M: Mark + 'static>(
    region: &GuestRegionMmap,
    logged: Logged<M>,
) -> Result<MmapRegion<Logged<M>>, MmapRegionError> {
    let original = region.get_mmap();
    let logged = logged.keeping(original.clone());
    let mut builder = MmapRegionBuilder::new_with_bitmap(original.size(), logged)
        .with_mmap_prot(original.prot())
        .with_mmap_flags(original.flags());
    if let Some(file) = original.file_offset() {
        builder = builder.with_file_offset(file.clone());
    }
    if let Some(hugetlbfs) = original.is_hugetlbfs() {
        builder = builder.with_hugetlbfs(hugetlbfs);
    }
    // SAFETY: V. The pointer and the size are those of `original`, whose mapping is there while it
    // lives; the bitmap that goes into the new region holds it, and comes out no earlier than when
    // that region is dropped. The new region does not own the mapping, so dropping it unmaps nothing.
    let builder = unsafe { builder.with_raw_mmap_pointer(original.as_ptr()) };
    builder.build()
}
