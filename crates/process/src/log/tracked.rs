//! Mappings under asynchronous write-protection: protected, and scanned.
#![allow(unsafe_code)]

use crate::calls::{self, Made, Pass, Protection, again};
use crate::error::{Call, ProcessError};
use crate::mapping::Mapping;
use core::ops::Range;
use linux_raw_sys::general::page_region;
use rustix::process::{Pid, getpid};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use vellum_memory::RegionSet;

/// Runs of pages that one call may find. The kernel gathers 512 at a time, and goes on by itself as long
/// as there is room: this many need no second call unless dirty pages are many and scattered.
const RUNS: usize = 4096;

/// What this kernel's scan says of memory that was given back, and has neither a page nor the mark of a
/// protected one. Under a page table it always was found. Where the table went too, only kernels with
/// a correction of 2026 find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vacancies {
    /// It counts them as written.
    AreFound,
    /// It passes them by: they are looked for in a pass of their own.
    AreSought,
}

/// Mappings, the userfaultfd that they are registered with, and the room for what a scan says.
pub(super) struct Tracked {
    faults: OwnedFd,
    pagemap: File,
    mappings: Vec<Mapping>,
    /// What a scan says of each that is registered.
    registered: Vec<Option<Vacancies>>,
    found: Box<[page_region]>,
    vacancies: Vacancies,
    owner: Pid,
}

impl Tracked {
    /// `vacancies` is what this kernel's scans say.
    ///
    /// # Safety
    /// M: the bytes of each mapping are mapped where it says, and stay so as long as this is there.
    pub(super) unsafe fn new(
        faults: OwnedFd,
        pagemap: File,
        mappings: Vec<Mapping>,
        vacancies: Vacancies,
    ) -> Self {
        let found = vec![page_region { start: 0, end: 0, categories: 0 }; RUNS].into_boxed_slice();
        let registered = vec![None; mappings.len()];
        Self { faults, pagemap, mappings, registered, found, vacancies, owner: getpid() }
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> &OwnedFd {
        &self.faults
    }

    #[cfg(test)]
    pub(super) fn pagemap(&self) -> &File {
        &self.pagemap
    }

    #[cfg(test)]
    pub(super) fn vacancies(&mut self) -> &mut [Option<Vacancies>] {
        &mut self.registered
    }

    /// Whether this process made it. Its descriptors are about the memory of the one that did.
    pub(super) fn is_ours(&self) -> Result<(), ProcessError> {
        if self.owner == getpid() { Ok(()) } else { Err(ProcessError::Forked) }
    }

    /// Protects all pages, those too that are not there yet. None may be registered.
    pub(super) fn start(&mut self) -> Result<(), ProcessError> {
        self.is_ours()?;
        for (mapping, registered) in self.mappings.iter().zip(&mut self.registered) {
            let bytes = mapping.bytes();
            // SAFETY: M, as `new` was promised.
            let made = again(|| unsafe { calls::register(&self.faults, &bytes) })
                .map_err(|source| refused(Call::Register, mapping, source))?;
            *registered = Some(self.vacancies.of(made));
            again(|| calls::write_protect(&self.faults, &bytes, Protection::On))
                .map_err(|source| refused(Call::WriteProtect, mapping, source))?;
        }
        Ok(())
    }

    /// Takes every protection away, also after an error, and gives the first. What it failed for is
    /// still registered, and tried again the next time.
    pub(super) fn stop(&mut self) -> Result<(), ProcessError> {
        self.is_ours()?;
        let all = self.mappings.iter().zip(&mut self.registered);
        let registered = all.filter(|(_, registered)| registered.is_some());
        let stopped = registered.map(|(mapping, registered)| {
            again(|| calls::unregister(&self.faults, &mapping.bytes()))
                .map_err(|source| refused(Call::Unregister, mapping, source))?;
            *registered = None;
            Ok(())
        });
        stopped.fold(Ok(()), Result::and)
    }

    /// Adds to `set` the pages of mapping `index` that were written or given back, and protects them.
    pub(super) fn take(&mut self, index: usize, set: &mut RegionSet) -> Result<(), ProcessError> {
        if self.registered[index] == Some(Vacancies::AreSought) {
            self.take_vacant(index, set)?;
        }
        let mapping = self.mappings[index];
        scan_all(&self.pagemap, Pass::Written, &mapping, &mut self.found, |bytes| {
            set.insert_range(mapping.pages_of(bytes));
            Ok(())
        })
    }

    /// Adds what was given back, and protects it. A page that is written between the two is in this
    /// round already.
    fn take_vacant(&mut self, index: usize, set: &mut RegionSet) -> Result<(), ProcessError> {
        let (mapping, faults) = (self.mappings[index], &self.faults);
        scan_all(&self.pagemap, Pass::Vacant, &mapping, &mut self.found, |bytes| {
            set.insert_range(mapping.pages_of(bytes));
            again(|| calls::write_protect(faults, bytes, Protection::On))
                .map_err(|source| refused(Call::WriteProtect, &mapping, source))
        })
    }
}

impl Vacancies {
    /// Of hugetlbfs no kernel's scan finds them.
    fn of(self, made: Made) -> Self {
        match made {
            Made::OfPages => self,
            Made::OfHugePages => Self::AreSought,
        }
    }
}

/// Scans all of a mapping, going on where the room was full.
fn scan_all(
    pagemap: &File,
    pass: Pass,
    mapping: &Mapping,
    found: &mut [page_region],
    mut each: impl FnMut(&Range<u64>) -> Result<(), ProcessError>,
) -> Result<(), ProcessError> {
    let mut left = mapping.bytes();
    while !left.is_empty() {
        let scanned = pass
            .made(|| calls::scan(pagemap, pass, &left, found))
            .map_err(|source| refused(Call::PagemapScan, mapping, source))?;
        found[..scanned.filled].iter().try_for_each(|run| each(&(run.start..run.end)))?;
        if scanned.end <= left.start {
            return Err(ProcessError::Stuck { slot: mapping.region().slot, at: left.start });
        }
        left.start = scanned.end;
    }
    Ok(())
}

fn refused(call: Call, mapping: &Mapping, source: io::Error) -> ProcessError {
    ProcessError::Refused { call, slot: mapping.region().slot, source }
}

/// In a process that was forked, the registration is the other's, and stays.
impl Drop for Tracked {
    fn drop(&mut self) {
        // Where it fails, closing the descriptor does the same, unless a forked process has it too. Nobody
        // stands either way: these pages' faults are answered by the kernel.
        let _ = self.stop();
    }
}
