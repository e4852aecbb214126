//! A mapping whose pages are protected whole, though they may be larger than 4 KiB.

use super::WatchError;
use crate::calls::{self, Made, Protection, again};
use crate::error::Call;
use crate::mapping::Mapping;
use core::ops::Range;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use vellum_memory::{GfnRange, PAGE_SIZE};

/// A mapping, and the size of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Whole {
    pub(super) mapping: Mapping,
    /// In bytes: a power of two.
    pub(super) page: u64,
}

impl Whole {
    /// Asks the kernel for the size of the pages of `mapping`, which has just been registered, was found
    /// to be `made` so, and has no page protected.
    pub(super) fn of(faults: &OwnedFd, mapping: Mapping, made: Made) -> Result<Self, WatchError> {
        let small = rustix::param::page_size() as u64;
        let page = match made {
            Made::OfPages => small,
            Made::OfHugePages => {
                let [first, last] = [End::First, End::Last].map(|end| size(faults, &mapping, end));
                let (first, last) = (first?, last?);
                let several = first != last || first == small;
                let slot = mapping.region().slot;
                (!several).then_some(first).ok_or(WatchError::SeveralSizes { slot })?
            }
        };
        Ok(Self { mapping, page })
    }

    /// The addresses of the pages that have bytes of `range`, as far as it is in the region.
    pub(super) fn bytes_of(&self, range: GfnRange) -> Option<Range<u64>> {
        self.mapping.bytes_of(range).map(|bytes| self.widened(&bytes))
    }

    /// The page that has the byte at `address`, as the guest knows it.
    pub(super) fn page_at(&self, address: u64) -> Option<GfnRange> {
        let pages = self.mapping.pages_of(&self.widened(&(address..address + 1)));
        let first = self.mapping.region().range.first().get() + pages.start;
        GfnRange::new(vellum_memory::Gfn::new(first), pages.end - pages.start)
    }

    /// The mapping begins and ends with a page, so that these are in it.
    fn widened(&self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start & !(self.page - 1)..bytes.end.next_multiple_of(self.page)
    }
}

/// An end of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Where it begins.
    First,
    /// Where it ends.
    Last,
}

/// The size of the page at an end of `mapping`: the first that the kernel takes protection away from,
/// which it does for whole pages only.
fn size(faults: &OwnedFd, mapping: &Mapping, end: End) -> Result<u64, WatchError> {
    let whole = mapping.bytes();
    let mut size = PAGE_SIZE;
    loop {
        let bytes = match end {
            End::First => whole.start..whole.start + size,
            End::Last => whole.end - size..whole.end,
        };
        match again(|| calls::write_protect(faults, &bytes, Protection::Off)) {
            Ok(()) => return Ok(size),
            Err(error) if is_too_small(&error) && 2 * size <= whole.end - whole.start => size *= 2,
            Err(source) => {
                let slot = mapping.region().slot;
                return Err(WatchError::Refused { call: Call::WriteProtect, slot, source });
            }
        }
    }
}

fn is_too_small(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

#[cfg(test)]
mod tests;
