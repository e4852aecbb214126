//! Pages whose memory is elsewhere than the board shows it.

use crate::error::RamError;
use std::collections::BTreeMap;
use vellum_memory::guest::{PAGE_BYTES, Page};
use vellum_pte::{Gfn, GfnRange, Pfn};
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// What is left behind where a page was, in each byte.
pub(super) const LEFT_BEHIND: u8 = 0xa5;

/// Host frames in use, by the page that is there, and spare ones. None is unmapped while the RAM
/// lives: a store through a translation that should be gone lands in one, and is missed.
#[derive(Debug, Default)]
pub(super) struct Away {
    used: BTreeMap<Gfn, Spare>,
    spare: Vec<Spare>,
}

impl Away {
    /// The memory of a page that is away.
    pub(super) fn page(&self, gfn: Gfn) -> Option<&Spare> {
        self.used.get(&gfn)
    }

    /// Whether any of `pages` pages from `first` on is away.
    pub(super) fn any(&self, first: Gfn, pages: u64) -> bool {
        let end = Gfn::new(first.get() + pages);
        self.used.range(first..end).next().is_some()
    }

    /// Sends a page away.
    pub(super) fn enter(&mut self, gfn: Gfn, bytes: &Page) -> Result<(), RamError> {
        let spare = self.spare.pop().map_or_else(|| Spare::new(gfn), Ok)?;
        spare.write(0, bytes);
        self.used.insert(gfn, spare);
        Ok(())
    }

    /// Takes a page that is at home again, or gone.
    pub(super) fn leave(&mut self, gfn: Gfn) {
        if let Some(spare) = self.used.remove(&gfn) {
            spare.write(0, &[LEFT_BEHIND; PAGE_BYTES]);
            self.spare.push(spare);
        }
    }

    /// The same for those of a range.
    pub(super) fn leave_all(&mut self, range: GfnRange) {
        let here: Vec<Gfn> =
            self.used.range(range.first()..range.end()).map(|(gfn, _)| *gfn).collect();
        here.into_iter().for_each(|gfn| self.leave(gfn));
    }
}

/// A host frame for one page.
#[derive(Debug)]
pub(super) struct Spare(MmapRegion);

impl Spare {
    fn new(gfn: Gfn) -> Result<Self, RamError> {
        let range = GfnRange::new(gfn, 1).ok_or(RamError::NoRam(gfn))?;
        let mapped = MmapRegion::new(PAGE_BYTES);
        mapped.map(Self).map_err(|source| RamError::Refused { range, source })
    }

    pub(super) fn frame(&self) -> Pfn {
        Pfn::of_address(self.0.as_ptr().expose_provenance() as u64)
    }

    pub(super) fn read(&self) -> Page {
        let mut bytes = [0; PAGE_BYTES];
        self.0.as_volatile_slice().copy_to(&mut bytes);
        bytes
    }

    /// Some bytes, if they are in the page.
    pub(super) fn slice(&self, offset: usize, count: usize) -> Option<VolatileSlice<'_>> {
        self.0.as_volatile_slice().subslice(offset, count).ok()
    }

    /// Writes `bytes` from `offset` on, as far as they are in the page.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        // What is past the end is not written, and nothing else can fail.
        let _ = self.0.as_volatile_slice().write(bytes, offset);
    }
}
