//! Layouts for tests.

use crate::*;
use alloc::vec::Vec;

/// Pages by number.
pub(crate) fn range(first: u64, pages: u64) -> GfnRange {
    GfnRange::new(Gfn::new(first), pages).expect("in range")
}

/// Regions given as address space, first page and number of pages. Slots count down, so that no
/// test mistakes a slot for a place.
pub(crate) fn layout(regions: &[(AddressSpace, u64, u64)]) -> Layout {
    let region = |(&(space, first, pages), slot)| Region {
        slot: SlotId(slot),
        space,
        range: range(first, pages),
    };
    Layout::new(regions.iter().zip((0..100).rev()).map(region).collect()).expect("no overlap")
}

/// Four regions, none of a whole number of words, that begin anywhere; the third is the second
/// one's neighbour, and the last has the numbers of the second in another address space.
pub(crate) fn crooked() -> Layout {
    layout(&[
        (AddressSpace::NORMAL, 1000, 67),
        (AddressSpace::NORMAL, 3, 130),
        (AddressSpace::NORMAL, 133, 5),
        (AddressSpace::SMM, 3, 130),
    ])
}

/// What a set holds, as region and page.
pub(crate) fn pages(set: &PageSet) -> Vec<(usize, u64)> {
    let regions = set.regions().iter().enumerate();
    regions.flat_map(|(index, set)| set.pages().map(move |page| (index, page))).collect()
}

/// The set of these.
pub(crate) fn set_of(layout: &Layout, pages: &[(usize, u64)]) -> PageSet {
    let mut set = PageSet::new(layout);
    for &(region, page) in pages {
        set.regions_mut()[region].insert(page);
    }
    set
}

/// One round: what the source hands over.
pub(crate) fn round<S: DirtySource>(source: &mut S) -> Result<Vec<(usize, u64)>, S::Error> {
    let mut set = PageSet::new(source.layout());
    source.collect(&mut set)?;
    for index in 0..set.regions().len() {
        let range = set.regions()[index].region().range;
        source.protect(index, range, &mut set)?;
    }
    Ok(pages(&set))
}
