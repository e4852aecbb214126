//! The guest's memory: a system slot with tables and code, and RAM.
//!
//! vm-memory cannot be told where to map, and a huge page needs guest and host addresses that are
//! aligned alike. So there the mapping is 2 MiB larger than RAM, and RAM lies in it where it is aligned;
//! the rest is never touched and costs nothing.
#![allow(unsafe_code)]

use crate::boot;
use crate::config::{Backing, MINIMUM_MEMORY, MOST_MEMORY};
use crate::error::MemoryError;
use std::io;
use std::sync::Arc;
use vellum_kvm::{Memslot, SlotAccess};
use vellum_memory::guest::{GuestAddress, GuestMemoryMmap};
use vellum_memory::{AddressSpace, Gfn, GfnRange, Layout, PAGE_SIZE, Region, SlotId};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{GuestRegionMmap, MmapRegion};

/// Where RAM begins: at 4 GiB, above everything that a PC has in the middle of its addresses.
pub const RAM_BASE: Gfn = Gfn::new((4 << 30) / PAGE_SIZE);
/// A guest leaves so many pages at the beginning of RAM to its monitor.
pub const RESERVED_PAGES: u64 = 256;
/// The region of the system slot, with page tables and code, in a machine's layout.
pub const SYSTEM: usize = 0;
/// The region of RAM.
pub const RAM: usize = 1;

const HUGE: u64 = 2 << 20;

/// The memory, there as long as anybody has it.
pub(crate) struct Ram {
    // Before what it may lie in, which goes when nobody else has its bytes.
    memory: GuestMemoryMmap,
    bytes: Arc<MmapRegion>,
    /// What RAM lies in, where it is not a mapping of its own.
    around: Option<MmapRegion>,
    slots: Vec<Memslot>,
    layout: Layout,
}

impl Ram {
    /// Zeros: `bytes` of RAM, and the system slot that goes with it.
    pub(crate) fn new(bytes: u64, backing: Backing) -> Result<Self, MemoryError> {
        if !(MINIMUM_MEMORY..=MOST_MEMORY).contains(&bytes) {
            return Err(MemoryError::Size(bytes));
        }
        let pages = bytes.div_ceil(PAGE_SIZE);
        let system = Gfn::new(0);
        let tables = boot::system_pages(pages);
        let (around, ram) = map(pages * PAGE_SIZE, backing)?;
        let ram = Arc::new(ram);
        let low = Arc::new(small(tables * PAGE_SIZE)?);
        let regions = vec![region(&low, system)?, region(&ram, RAM_BASE)?];
        let slots = vec![slot(0, system, &low)?, slot(1, RAM_BASE, &ram)?];
        let layout = Layout::new(slots.iter().map(Memslot::region).collect::<Vec<Region>>())?;
        let memory = GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Regions)?;
        Ok(Self { memory, bytes: ram, around, slots, layout })
    }

    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The slots, region by region: as they are to be made.
    pub(crate) fn slots(&self) -> &[Memslot] {
        &self.slots
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Pages of RAM.
    pub(crate) fn pages(&self) -> u64 {
        self.layout.regions()[RAM].range.pages()
    }
}

impl Drop for Ram {
    /// Whoever has a clone of the memory keeps it. It does not say when it is done, so then a mapping
    /// with something around it stays until the process ends.
    fn drop(&mut self) {
        self.memory = GuestMemoryMmap::default();
        if Arc::get_mut(&mut self.bytes).is_none() {
            std::mem::forget(self.around.take());
        }
    }
}

/// Memory for RAM, and what it lies in.
fn map(bytes: u64, backing: Backing) -> Result<(Option<MmapRegion>, MmapRegion), MemoryError> {
    match backing {
        Backing::Small => Ok((None, small(bytes)?)),
        Backing::Transparent => {
            let (around, ram) = aligned(bytes)?;
            advise(&ram, libc::MADV_HUGEPAGE);
            Ok((Some(around), ram))
        }
        Backing::Huge => Ok((None, pooled(bytes)?)),
    }
}

fn small(bytes: u64) -> Result<MmapRegion, MemoryError> {
    let region = anonymous(bytes, Backing::Small)?;
    advise(&region, libc::MADV_NOHUGEPAGE);
    Ok(region)
}

fn anonymous(bytes: u64, backing: Backing) -> Result<MmapRegion, MemoryError> {
    MmapRegion::new(size(bytes)?).map_err(|error| refused(bytes, backing, error))
}

fn aligned(bytes: u64) -> Result<(MmapRegion, MmapRegion), MemoryError> {
    let around = anonymous(bytes + HUGE - PAGE_SIZE, Backing::Transparent)?;
    let before = (around.as_ptr().addr() as u64).wrapping_neg() % HUGE;
    let first = around.as_ptr().wrapping_add(size(before)?);
    let (prot, flags) = (around.prot(), around.flags());
    // SAFETY: M. `before` is less than what `around` has more than RAM, both being multiples of a page,
    // so RAM lies in a mapping that was just made. It stays there until nobody has these bytes: see
    // `drop`.
    let region = unsafe { MmapRegion::build_raw(first, size(bytes)?, prot, flags) };
    let region = region.map_err(|error| refused(bytes, Backing::Transparent, error))?;
    Ok((around, region))
}

/// Huge pages, reserved at once: a guest that found the pool empty later would be killed.
fn pooled(bytes: u64) -> Result<MmapRegion, MemoryError> {
    if !bytes.is_multiple_of(HUGE) {
        return Err(MemoryError::NotWhole(bytes));
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
    let builder = MmapRegionBuilder::new(size(bytes)?)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags)
        .with_hugetlbfs(true);
    builder.build().map_err(|error| match host_error(error) {
        source if source.raw_os_error() == Some(libc::ENOMEM) => {
            MemoryError::Pool { pages: bytes / HUGE, source }
        }
        source => MemoryError::Refused { bytes, backing: Backing::Huge, source },
    })
}

/// A host that knows nothing of the advice declines, and the memory is as good.
fn advise(region: &MmapRegion, advice: libc::c_int) {
    // SAFETY: M. The region is mapped, and the advice changes no byte of it.
    unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) };
}

fn refused(bytes: u64, backing: Backing, error: MmapRegionError) -> MemoryError {
    MemoryError::Refused { bytes, backing, source: host_error(error) }
}

fn host_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other),
    }
}

fn size(bytes: u64) -> Result<usize, MemoryError> {
    usize::try_from(bytes).map_err(|_| MemoryError::Size(bytes))
}

fn region(bytes: &Arc<MmapRegion>, first: Gfn) -> Result<GuestRegionMmap, MemoryError> {
    let base = GuestAddress(first.gpa().get());
    let region = GuestRegionMmap::with_arc(Arc::clone(bytes), base);
    region.ok_or(MemoryError::Size(bytes.size() as u64))
}

fn slot(id: u16, first: Gfn, bytes: &MmapRegion) -> Result<Memslot, MemoryError> {
    let (size, space) = (bytes.size() as u64, AddressSpace::NORMAL);
    let range = GfnRange::new(first, size / PAGE_SIZE).ok_or(MemoryError::Size(size))?;
    Ok(Memslot::new(SlotId(id), space, range, bytes.as_ptr(), SlotAccess::ReadWrite)?)
}
