//! Logs and watches of rust-vmm's guest memory, which keeps its mappings by itself.
#![allow(unsafe_code)]

use crate::error::ProcessError;
use crate::log::ProcessLog;
use crate::mapping::{Mapping, MappingError};
use crate::watch::{WatchError, WriteWatch, Writers};
use vellum_memory::{AddressSpace, GfnRange, Gpa, PAGE_SIZE, SlotId};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

/// Why guest memory cannot be tracked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A region does not begin and end with a page of 4 KiB.
    #[error("the region of {bytes:#x} bytes at {base} is not one of pages of 4 KiB")]
    NoPages {
        /// Where the guest has it.
        base: Gpa,
        /// Its size.
        bytes: u64,
    },
    /// There are more regions than slots have numbers.
    #[error("guest memory has more than 65,536 regions")]
    TooManyRegions,
    /// Where it lies in this process is no place to track.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The log could not be made.
    #[error(transparent)]
    Log(#[from] ProcessError),
    /// The watch could not be made.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

impl ProcessLog {
    /// A log of all regions of `memory`, as memslots 0, 1, ... of `space` in their order. It keeps the
    /// mappings as long as it is there; regions that are added to `memory` later are not in it.
    ///
    /// ```
    /// use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
    /// use vellum_memory::{AddressSpace, DirtySource, PageSet};
    /// use vellum_process::{Capabilities, Facility, ProcessLog};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// if let Err(missing) = Capabilities::of_this_process().supports(Facility::Log) {
    ///     println!("{missing}");
    ///     return Ok(());
    /// }
    /// let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x10_0000), 64 << 12)])?;
    /// let mut log = ProcessLog::of_guest(&memory, AddressSpace::NORMAL)?;
    /// log.start()?;
    /// memory.write_obj(7_u64, GuestAddress(0x10_3000))?;
    /// let mut round = PageSet::new(log.layout());
    /// log.collect(&mut round)?;
    /// assert!(round.regions()[0].pages().eq([3]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn of_guest(memory: &GuestMemoryMmap, space: AddressSpace) -> Result<Self, GuestError> {
        // SAFETY: M: these are the regions' own mappings, which nobody takes away as long as somebody
        // has the regions; and the log has them from here on.
        let log = unsafe { Self::new(mappings(memory, space)?) }?;
        Ok(log.keeping(memory.clone()))
    }
}

impl WriteWatch {
    /// A watch over all regions of `memory`, as [`ProcessLog::of_guest`] names them.
    ///
    /// ```
    /// use vellum_memory::AddressSpace;
    /// use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
    /// use vellum_process::{Capabilities, Facility, WriteWatch, Writers};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// if let Err(missing) = Capabilities::of_this_process().supports(Facility::WatchThreads) {
    ///     println!("{missing}");
    ///     return Ok(());
    /// }
    /// let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 12)])?;
    /// let watch = WriteWatch::of_guest(&memory, AddressSpace::NORMAL, Writers::Threads)?;
    /// watch.protect(0, watch.layout().regions()[0].range)?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| memory.write_obj(7_u64, GuestAddress(0x3008)));
    ///     let event = watch.wait(None)?.expect("no signal comes");
    ///     assert_eq!(event.gpa.get(), 0x3008);
    ///     assert_eq!(memory.read_obj::<u64>(GuestAddress(0x3008)).ok(), Some(0), "not yet");
    ///     watch.allow(event.region, event.page)
    /// })?;
    /// assert_eq!(memory.read_obj::<u64>(GuestAddress(0x3008))?, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn of_guest(
        memory: &GuestMemoryMmap,
        space: AddressSpace,
        writers: Writers,
    ) -> Result<Self, GuestError> {
        // SAFETY: M, as in `ProcessLog::of_guest`.
        let watch = unsafe { Self::new(mappings(memory, space)?, writers) }?;
        Ok(watch.keeping(memory.clone()))
    }
}

fn mappings(memory: &GuestMemoryMmap, space: AddressSpace) -> Result<Vec<Mapping>, GuestError> {
    let numbered = memory.iter().enumerate();
    numbered.map(|(number, region)| mapping(number, region, space)).collect()
}

fn mapping(
    number: usize,
    region: &GuestRegionMmap,
    space: AddressSpace,
) -> Result<Mapping, GuestError> {
    let slot = SlotId(u16::try_from(number).map_err(|_| GuestError::TooManyRegions)?);
    let (base, bytes) = (Gpa::new(region.start_addr().0), region.len());
    let paged = base.get().is_multiple_of(PAGE_SIZE) && bytes.is_multiple_of(PAGE_SIZE);
    let range = paged.then(|| GfnRange::new(base.gfn(), bytes / PAGE_SIZE)).flatten();
    let range = range.ok_or(GuestError::NoPages { base, bytes })?;
    Ok(Mapping::new(slot, space, range, region.as_ptr())?)
}

#[cfg(test)]
mod tests;
