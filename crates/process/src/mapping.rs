//! Guest memory as it lies in this process.

use core::ops::Range;
use vellum_memory::{AddressSpace, GfnRange, PAGE_SIZE, Region, SlotId};

/// A region of a guest's memory, and where its bytes are in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    region: Region,
    host: u64,
}

/// Why memory cannot be tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MappingError {
    /// It does not begin and end with a page of the host's.
    #[error(
        "memory of {pages} pages of 4 KiB at {host:#x} does not begin and end with a page of {page:#x} bytes"
    )]
    Unaligned {
        /// Where it begins.
        host: u64,
        /// Its pages of 4 KiB.
        pages: u64,
        /// The size of the host's pages, in bytes.
        page: u64,
    },
    /// It ends past the last address.
    #[error("memory of {pages} pages at {host:#x} ends past the last address")]
    PastTheEnd {
        /// Where it begins.
        host: u64,
        /// Its pages.
        pages: u64,
    },
}

/// Two regions have addresses of this process in common. A write would be in the rounds of one of them
/// only. The same memory at different addresses is not found: a write through one of its mappings is in
/// the rounds of that one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("regions {first} and {second} share addresses of this process: track them once")]
pub struct Aliased {
    /// The place of the earlier region.
    pub first: usize,
    /// The place of the later region.
    pub second: usize,
}

impl Aliased {
    /// Whether no two of `mappings` share an address. Of those that do, some are neighbours in the order of
    /// their addresses.
    pub(crate) fn none_of(mappings: &[Mapping]) -> Result<(), Self> {
        let mut sorted: Vec<_> = mappings.iter().map(Mapping::bytes).enumerate().collect();
        sorted.sort_by_key(|(_, bytes)| bytes.start);
        let shares = sorted.windows(2).find_map(|pair| match pair {
            [(low, below), (high, above)] if above.start < below.end => Some((*low, *high)),
            _ => None,
        });
        shares.map_or(Ok(()), |(one, other)| {
            Err(Self { first: one.min(other), second: one.max(other) })
        })
    }
}

impl Mapping {
    /// The region `range` of `space`, called `slot`, whose bytes begin at `host`. Memory of `hugetlbfs`
    /// begins and ends with one of its pages.
    ///
    /// # Errors
    /// [`MappingError`].
    pub fn new(
        slot: SlotId,
        space: AddressSpace,
        range: GfnRange,
        host: *mut u8,
    ) -> Result<Self, MappingError> {
        let (host, pages) = (host.addr() as u64, range.pages());
        let page = rustix::param::page_size() as u64;
        let bytes = pages.checked_mul(PAGE_SIZE).filter(|&bytes| host.checked_add(bytes).is_some());
        let bytes = bytes.ok_or(MappingError::PastTheEnd { host, pages })?;
        if host.is_multiple_of(page) && bytes.is_multiple_of(page) {
            Ok(Self { region: Region { slot, space, range }, host })
        } else {
            Err(MappingError::Unaligned { host, pages, page })
        }
    }

    /// It as a region of a layout.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// The addresses of all of its bytes.
    pub(crate) fn bytes(&self) -> Range<u64> {
        self.host..self.host + self.region.range.pages() * PAGE_SIZE
    }

    /// The addresses of the bytes of `range`, as far as it is in the region.
    pub(crate) fn bytes_of(&self, range: GfnRange) -> Option<Range<u64>> {
        let whole = self.region.range;
        let here = whole.intersection(range)?;
        let start = self.host + (here.first().get() - whole.first().get()) * PAGE_SIZE;
        Some(start..start + here.pages() * PAGE_SIZE)
    }

    /// The pages, counted from the region's first, that have bytes in `bytes`; none outside of it.
    pub(crate) fn pages_of(&self, bytes: &Range<u64>) -> Range<u64> {
        let whole = self.bytes();
        let within = |address: u64| address.clamp(whole.start, whole.end) - self.host;
        within(bytes.start) / PAGE_SIZE..within(bytes.end).div_ceil(PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests;
