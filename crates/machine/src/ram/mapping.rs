//! One range of RAM in this process.
//!
//! vm-memory maps with `MAP_NORESERVE`, and the kernel backs a page when it is first touched. It
//! cannot be told where to map, though, and a huge leaf needs guest and host addresses that are
//! aligned alike. So there the mapping is one page size larger than the range, and the range lies
//! in it where it is aligned; the rest is never touched and costs nothing.
#![allow(unsafe_code)]

use super::PageSize;
use crate::error::RamError;
use std::sync::Arc;
use vellum_pte::{GfnRange, PAGE_SIZE};
use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

/// The memory for a range, there as long as anybody has it.
#[derive(Debug)]
pub(super) struct Mapping {
    range: GfnRange,
    bytes: Arc<MmapRegion>,
    /// What `bytes` lies in, where it is not a mapping of its own.
    around: Option<MmapRegion>,
}

impl Mapping {
    /// Maps memory for `range`, aligned for `pages`.
    pub(super) fn new(range: GfnRange, pages: PageSize) -> Result<Self, RamError> {
        match pages {
            PageSize::Small => {
                let bytes = Arc::new(map(range, size(range, 0)?)?);
                Ok(Self { range, bytes, around: None })
            }
            PageSize::Huge2M | PageSize::Huge1G => Self::aligned(range, pages),
        }
    }

    fn aligned(range: GfnRange, pages: PageSize) -> Result<Self, RamError> {
        let around = map(range, size(range, pages.bytes() - PAGE_SIZE)?)?;
        let (bytes, host) = (size(range, 0)?, around.as_ptr().addr() as u64);
        let before = range.first().gpa().get().wrapping_sub(host) % pages.bytes();
        let before = usize::try_from(before).map_err(|_| RamError::TooLarge(range))?;
        let first = around.as_ptr().wrapping_add(before);
        let (prot, flags) = (around.prot(), around.flags());
        // SAFETY: M. `before` is less than what `around` has more than the range, both being
        // multiples of a page, so the range lies in a mapping that was just made. It stays there
        // until nobody has these bytes: see `drop`.
        let region = unsafe { MmapRegion::build_raw(first, bytes, prot, flags) };
        let region = region.map_err(|source| RamError::Refused { range, source })?;
        advise_huge_pages(&region);
        Ok(Self { range, bytes: Arc::new(region), around: Some(around) })
    }

    /// The memory where the guest sees it.
    pub(super) fn region(&self) -> Result<Arc<GuestRegionMmap>, RamError> {
        let base = GuestAddress(self.range.first().gpa().get());
        let region = GuestRegionMmap::with_arc(Arc::clone(&self.bytes), base);
        region.map(Arc::new).ok_or(RamError::PastTheEnd(self.range))
    }

    /// Gives the memory of its part of `range` back to the host: zeros are there when it is touched
    /// next.
    pub(super) fn discard(&self, range: GfnRange) {
        let Some(here) = self.range.intersection(range) else { return };
        let before = (here.first().get() - self.range.first().get()) * PAGE_SIZE;
        let (Ok(before), Ok(bytes)) = (usize::try_from(before), size(here, 0)) else { return };
        let first = self.bytes.as_ptr().wrapping_add(before);
        // SAFETY: M. The part is inside the mapping, which is private and anonymous, so the kernel
        // drops its pages. To whoever accesses it, always as atomics or volatile, that is a store.
        unsafe { libc::madvise(first.cast(), bytes, libc::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    /// Whoever has a clone of the memory keeps it. It does not say when it is done, so then a
    /// mapping with something around it stays until the process ends.
    fn drop(&mut self) {
        if Arc::get_mut(&mut self.bytes).is_none() {
            std::mem::forget(self.around.take());
        }
    }
}

fn size(range: GfnRange, more: u64) -> Result<usize, RamError> {
    let bytes = range.pages().checked_mul(PAGE_SIZE).and_then(|bytes| bytes.checked_add(more));
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or(RamError::TooLarge(range))
}

fn map(range: GfnRange, bytes: usize) -> Result<MmapRegion, RamError> {
    MmapRegion::new(bytes).map_err(|source| RamError::Refused { range, source })
}

/// A host without transparent huge pages declines, and the memory is as good.
fn advise_huge_pages(region: &MmapRegion) {
    // SAFETY: M. The region is mapped, and the advice changes no byte of it.
    unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_HUGEPAGE) };
}
