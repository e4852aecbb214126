//! A map for each page, mostly none.

use crate::allocate::OutOfMemory;
use crate::sparse::Sparse;
use core::ops::Range;
use vellum_pte::SubPageMap;

/// Maps side by side: 2 KiB of them.
const CHUNK: usize = if cfg!(loom) { 2 } else { 512 };

/// Which sub-pages may be written, by a page's place in its slot. Kept as the bits that are denied,
/// so that a page without a map has no restriction.
#[derive(Debug, Default)]
pub(crate) struct SubPageMaps {
    denied: Sparse<u32, CHUNK>,
}

impl SubPageMaps {
    pub(crate) fn get(&self, page: u64) -> SubPageMap {
        SubPageMap::new(!self.denied.get(page))
    }

    /// Makes room for a map: after that, [`set`](Self::set) does not fail for it.
    pub(crate) fn reserve(&mut self, page: u64, map: SubPageMap) -> Result<(), OutOfMemory> {
        if map.is_all() { Ok(()) } else { self.denied.reserve(page) }
    }

    pub(crate) fn set(&mut self, page: u64, map: SubPageMap) -> Result<(), OutOfMemory> {
        self.denied.put(page, !map.bits())
    }

    /// Whether any of these pages is restricted.
    pub(crate) fn any(&self, pages: Range<u64>) -> bool {
        self.denied.any(pages)
    }

    /// Tells of each page that is.
    pub(crate) fn for_each(&self, visitor: &mut impl FnMut(u64, SubPageMap)) {
        self.denied.for_each(&mut |page, denied| visitor(page, SubPageMap::new(!denied)));
    }
}
