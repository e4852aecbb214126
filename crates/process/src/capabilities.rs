//! What the kernel gives this process.

mod missing;

use crate::calls::{self, Faults, Pass};
use core::fmt;
use linux_raw_sys::general::{
    UFFD_FEATURE_EXACT_ADDRESS, UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFD_FEATURE_THREAD_ID,
    UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_FEATURE_WP_UNPOPULATED,
};
use std::fs::File;
use std::os::fd::OwnedFd;

pub use missing::Missing;

/// What [`ProcessLog`](crate::ProcessLog) asks of a userfaultfd.
pub(crate) const LOG_FEATURES: u64 =
    (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM) as u64;
/// What [`WriteWatch`](crate::WriteWatch) asks of one. The youngest of them is of Linux 6.4.
pub(crate) const WATCH_FEATURES: u64 = (UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | UFFD_FEATURE_WP_UNPOPULATED
    | UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | UFFD_FEATURE_EXACT_ADDRESS
    | UFFD_FEATURE_THREAD_ID) as u64;

/// Something that a process may be given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Facility {
    /// [`ProcessLog`](crate::ProcessLog): which pages were written.
    Log,
    /// [`WriteWatch`](crate::WriteWatch) over the writes of threads.
    WatchThreads,
    /// [`WriteWatch`](crate::WriteWatch) over the kernel's writes too.
    WatchKernelToo,
}

/// What this process is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    features: Result<u64, Missing>,
    kernel_faults: Result<(), Missing>,
    scan: Result<(), Missing>,
}

impl Capabilities {
    /// Asks the kernel. It opens a few descriptors and closes them again.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            features: features(),
            kernel_faults: open(Faults::OfKernelToo).map(drop),
            scan: pagemap().map(drop),
        }
    }

    /// Whether this process is given `facility`.
    ///
    /// # Errors
    /// [`Missing`], which says what to do.
    pub fn supports(&self, facility: Facility) -> Result<(), Missing> {
        let features = self.features?;
        let has = |all: u64, missing| if features & all == all { Ok(()) } else { Err(missing) };
        match facility {
            Facility::Log => {
                has(LOG_FEATURES, Missing::AsyncWriteProtection)?;
                self.scan
            }
            Facility::WatchThreads => has(WATCH_FEATURES, Missing::WriteProtection),
            Facility::WatchKernelToo => {
                has(WATCH_FEATURES, Missing::WriteProtection)?;
                self.kernel_faults
            }
        }
    }
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "a log",
            Self::WatchThreads => "a watch over threads",
            Self::WatchKernelToo => "a watch over threads and the kernel",
        })
    }
}

/// A userfaultfd that has agreed on nothing yet.
pub(crate) fn open(faults: Faults) -> Result<OwnedFd, Missing> {
    let refused = match calls::open(faults) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    // Its file's permissions may let in whom the system call does not.
    let device = File::open("/dev/userfaultfd");
    let by_device = device.and_then(|device| calls::open_by(&device, faults));
    by_device.map_err(|_| Missing::by_opening(&refused, faults))
}

/// Asks a userfaultfd for `features`; where there are not all of them, `lack` is missing.
pub(crate) fn agree(faults: &OwnedFd, features: u64, lack: Missing) -> Result<u64, Missing> {
    calls::agree(faults, features).map_err(|error| Missing::by_agreeing(&error, lack))
}

/// `/proc/self/pagemap`, of a kernel that can scan.
pub(crate) fn pagemap() -> Result<File, Missing> {
    let pagemap = File::open("/proc/self/pagemap");
    let pagemap = pagemap.map_err(|error| Missing::by_opening_pagemap(&error))?;
    // A scan of nothing.
    match calls::scan(&pagemap, Pass::Written, &(0..0), &mut []) {
        Ok(_) => Ok(pagemap),
        Err(error) => Err(Missing::by_scanning(&error)),
    }
}

fn features() -> Result<u64, Missing> {
    agree(&open(Faults::OfThreads)?, 0, Missing::TooOld)
}

#[cfg(test)]
mod tests;
