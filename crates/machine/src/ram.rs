//! Guest RAM: anonymous host memory, of which untouched pages cost nothing.

mod away;
mod mapping;
#[cfg(test)]
mod tests;
mod words;

use crate::error::RamError;
use away::{Away, LEFT_BEHIND, Spare};
use mapping::Mapping;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use vellum_memory::Layout;
use vellum_memory::guest::{PAGE_BYTES, read_page, write_page};
use vellum_pte::{Gfn, GfnRange, Level, PAGE_SIZE, Pfn};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice,
};
use words::{exchange_double, exchange_word, write_at_once};

/// Where RAM begins, as on the usual RISC-V boards.
pub const RAM_BASE: Gfn = Gfn::new(0x8000_0000 / PAGE_SIZE);

/// The largest pages that a board's RAM is made of, and so the largest leaves that the library may
/// map it by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PageSize {
    /// 4 KiB.
    #[default]
    Small,
    /// 2 MiB: guest and host addresses are aligned alike, and the host is asked for transparent
    /// huge pages. The first touch of one costs 2 MiB of the host where it gives them.
    Huge2M,
    /// 1 GiB: aligned alike too. Hosts have no transparent pages of this size and give smaller ones.
    Huge1G,
}

impl PageSize {
    /// The level of a leaf of this size.
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            Self::Small => Level::L1,
            Self::Huge2M => Level::L2,
            Self::Huge1G => Level::L3,
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => PAGE_SIZE,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }

    /// This and the smaller ones, the largest first.
    fn downwards(self) -> impl Iterator<Item = Self> {
        let all = [Self::Huge1G, Self::Huge2M, Self::Small];
        all.into_iter().filter(move |size| size.bytes() <= self.bytes())
    }
}

/// A board's RAM. A host frame number here is an address of this process, in pages.
#[derive(Debug)]
pub(crate) struct Ram {
    // Before the mappings, which go when nobody else has their bytes.
    memory: GuestMemoryMmap,
    mappings: Vec<Mapping>,
    pages: PageSize,
    away: RwLock<Away>,
}

/// Where the memory behind a guest page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Where the board's memory shows it.
    Home,
    /// In a host frame of its own; what the board's memory shows there is no part of the guest.
    Away,
}

/// What is behind a guest page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostPage {
    /// The host frame.
    pub(crate) frame: Pfn,
    /// The largest leaf that may map it: the memory around it is of one mapping, and aligned alike.
    pub(crate) largest: Level,
}

impl Ram {
    /// RAM for every region of `layout`. Regions of different address spaces that name the same
    /// pages share them.
    pub(crate) fn new(layout: &Layout, pages: PageSize) -> Result<Self, RamError> {
        let mut ranges: Vec<GfnRange> =
            layout.regions().iter().map(|region| region.range).collect();
        ranges.sort_by_key(|range| (range.first(), range.pages()));
        ranges.dedup();
        let map = |range| Mapping::new(range, pages);
        let mappings = ranges.into_iter().map(map).collect::<Result<Vec<_>, _>>()?;
        let regions = mappings.iter().map(Mapping::region).collect::<Result<Vec<_>, _>>()?;
        let memory = GuestMemoryMmap::from_arc_regions(regions)?;
        Ok(Self { memory, mappings, pages, away: RwLock::default() })
    }

    /// The bytes.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// What is behind a guest page.
    pub(crate) fn page(&self, gfn: Gfn) -> Option<HostPage> {
        let away = self.away();
        if let Some(frame) = away.page(gfn).map(Spare::frame) {
            return Some(HostPage { frame, largest: Level::L1 });
        }
        let at = GuestAddress(gfn.gpa().get());
        let host = self.memory.get_host_address(at).ok()?.expose_provenance() as u64;
        let region = self.memory.find_region(at)?;
        let (first, last) = (region.start_addr().0, region.last_addr().0);
        let whole = |size: &PageSize| {
            let begin = at.0 - at.0 % size.bytes();
            let inside = begin >= first && last - begin >= size.bytes() - 1;
            let alike = (at.0 ^ host).is_multiple_of(size.bytes());
            inside && alike && !away.any(Gfn::new(begin / PAGE_SIZE), size.bytes() / PAGE_SIZE)
        };
        let size = self.pages.downwards().find(whole)?;
        Some(HostPage { frame: Pfn::of_address(host), largest: size.level() })
    }

    /// Writes into a page from `offset` on, wherever it is. `bytes` end in the page. One, two, four or
    /// eight of them at a multiple of that are written at once, as a processor stores them.
    pub(crate) fn write(&self, gfn: Gfn, offset: u64, bytes: &[u8]) -> Result<(), RamError> {
        self.with_bytes(gfn, offset, bytes.len(), |at| write_at_once(&at, bytes))
    }

    /// Compares four or eight bytes, at a multiple of that in a page, with the low bytes of `expected`,
    /// and if they are the same puts `new` there. Says what they were.
    pub(crate) fn compare_exchange(
        &self,
        gfn: Gfn,
        offset: u64,
        expected: u64,
        new: &[u8],
    ) -> Result<u64, RamError> {
        let exchanged = self.with_bytes(gfn, offset, new.len(), |at| match new.try_into() {
            Ok(new) => exchange_double(&at, expected, u64::from_le_bytes(new)),
            Err(_) => exchange_word(&at, expected, new.try_into().ok()?),
        });
        exchanged?.ok_or(RamError::NoRam(gfn))
    }

    /// Gives `act` some bytes of a page, wherever it is.
    fn with_bytes<T>(
        &self,
        gfn: Gfn,
        offset: u64,
        count: usize,
        act: impl FnOnce(VolatileSlice<'_>) -> T,
    ) -> Result<T, RamError> {
        // Held until it is done: a page that moved meanwhile would lose it.
        let away = self.away();
        if let (Some(page), Ok(offset)) = (away.page(gfn), usize::try_from(offset)) {
            return page.slice(offset, count).map(act).ok_or(RamError::NoRam(gfn));
        }
        let at = GuestAddress(gfn.gpa().get() + offset);
        self.memory.get_slice(at, count).map(act).map_err(|_| RamError::NoRam(gfn))
    }

    /// Moves the memory behind a page to another frame, or back. Nobody may have a translation.
    pub(crate) fn move_page(&self, gfn: Gfn) -> Result<Place, RamError> {
        let mut away = self.away_mut();
        let no_ram = |_| RamError::NoRam(gfn);
        if let Some(bytes) = away.page(gfn).map(Spare::read) {
            write_page(&self.memory, gfn, &bytes).map_err(no_ram)?;
            away.leave(gfn);
            return Ok(Place::Home);
        }
        let mut bytes = [0; PAGE_BYTES];
        read_page(&self.memory, gfn, &mut bytes).map_err(no_ram)?;
        away.enter(gfn, &bytes)?;
        write_page(&self.memory, gfn, &[LEFT_BEHIND; PAGE_BYTES]).map_err(no_ram)?;
        Ok(Place::Away)
    }

    /// Gives the memory behind a range back to the host. Nobody may have a translation.
    pub(crate) fn discard(&self, range: GfnRange) {
        let mut away = self.away_mut();
        away.leave_all(range);
        self.mappings.iter().for_each(|mapping| mapping.discard(range));
    }

    fn away(&self) -> RwLockReadGuard<'_, Away> {
        // It is whole between any two statements that can panic (none can).
        self.away.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn away_mut(&self) -> RwLockWriteGuard<'_, Away> {
        self.away.write().unwrap_or_else(PoisonError::into_inner)
    }
}
