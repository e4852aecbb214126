//! Whether this kernel's scan finds memory that was given back together with its page table.
#![allow(unsafe_code)]

use super::tracked::Vacancies;
use crate::calls::{self, Faults, Pass};
use crate::capabilities::{self, LOG_FEATURES};
use core::ops::Range;
use core::ptr;
use linux_raw_sys::general::page_region;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::fs::File;
use std::io;

/// Asks it: scans memory that was never there. Where that fails, the answer is that which is never
/// wrong.
pub(super) fn vacancies(pagemap: &File) -> Vacancies {
    match finds_vacancies(pagemap) {
        Ok(true) => Vacancies::AreFound,
        Ok(false) | Err(_) => Vacancies::AreSought,
    }
}

fn finds_vacancies(pagemap: &File) -> io::Result<bool> {
    let nothing = Nothing::new()?;
    let bytes = nothing.bytes();
    let faults = capabilities::open(Faults::OfThreads).map_err(io::Error::other)?;
    calls::agree(&faults, LOG_FEATURES)?;
    // SAFETY: M: `nothing` is mapped until after `faults` is closed.
    unsafe { calls::register(&faults, &bytes) }?;
    let mut found = [page_region { start: 0, end: 0, categories: 0 }];
    let scanned = calls::scan(pagemap, Pass::Written, &bytes, &mut found)?;
    Ok(found[..scanned.filled].iter().any(|run| (run.start..run.end) == bytes))
}

/// Addresses that a whole page table would be over, and none is.
struct Nothing {
    base: *mut u8,
    length: usize,
}

impl Nothing {
    fn new() -> io::Result<Self> {
        // Twice what a table is over, so that all of some table's is in it.
        let length = 2 * table();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags) }?;
        Ok(Self { base: base.cast(), length })
    }

    fn bytes(&self) -> Range<u64> {
        let start = self.base.addr().next_multiple_of(table()) as u64;
        start..start + table() as u64
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped. It cannot fail but for want of memory, and then stays.
        let _ = unsafe { munmap(self.base.cast(), self.length) };
    }
}

/// How many bytes a page table is over: as many pages as it has entries of eight bytes.
fn table() -> usize {
    let page = rustix::param::page_size();
    page * (page / 8)
}
