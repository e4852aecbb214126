//! What the kernel gives this process, and what to do where it does not.

use crate::calls::{self, Faults, Pass};
use core::fmt;
use linux_raw_sys::general::{
    UFFD_FEATURE_EXACT_ADDRESS, UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFD_FEATURE_THREAD_ID,
    UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_FEATURE_WP_UNPOPULATED,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

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

/// What is missing, and what to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Missing {
    /// No system call of that name, or a filter in front of it.
    #[error(
        "this kernel has no userfaultfd: take one with CONFIG_USERFAULTFD, or let the seccomp filter \
         of this container pass userfaultfd(2)"
    )]
    Userfaultfd,
    /// The kernel's faults are for the privileged.
    #[error(
        "this process may not hold up the kernel's writes: give it /dev/userfaultfd (chmod or an ACL), \
         or CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd to 1; or watch threads only"
    )]
    KernelFaults,
    /// Nor may it handle its own.
    #[error(
        "this process may not use userfaultfd: let the seccomp filter or security module of this \
         container pass userfaultfd(2)"
    )]
    NotPermitted,
    /// Write-protection that somebody answers: none, or not for memory that is shared or not there yet.
    #[error("this kernel's userfaultfd cannot write-protect all memory: take Linux 6.4 or newer")]
    WriteProtection,
    /// Write-protection that nobody has to answer.
    #[error(
        "this kernel's userfaultfd cannot write-protect asynchronously (UFFD_FEATURE_WP_ASYNC): take \
         Linux 6.7 or newer on x86-64, 6.10 or newer on aarch64"
    )]
    AsyncWriteProtection,
    /// The scan that finds what was written.
    #[error("this kernel has no PAGEMAP_SCAN: take Linux 6.7 or newer")]
    PagemapScan,
    /// The file that it is a call of.
    #[error("/proc/self/pagemap cannot be opened: mount proc in this container")]
    Pagemap,
    /// No more descriptors.
    #[error("no descriptor is left for a userfaultfd: raise RLIMIT_NOFILE, or close some")]
    Descriptors,
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
    by_device.map_err(|_| not_opened(&refused, faults))
}

/// `/proc/self/pagemap`, of a kernel that can scan.
pub(crate) fn pagemap() -> Result<File, Missing> {
    let pagemap = File::open("/proc/self/pagemap").map_err(|_| Missing::Pagemap)?;
    // A scan of nothing.
    match calls::scan(&pagemap, Pass::Written, &(0..0), &mut []) {
        Ok(_) => Ok(pagemap),
        Err(_) => Err(Missing::PagemapScan),
    }
}

fn features() -> Result<u64, Missing> {
    let faults = open(Faults::OfThreads)?;
    calls::agree(&faults, 0).map_err(|_| Missing::WriteProtection)
}

fn not_opened(error: &io::Error, faults: Faults) -> Missing {
    match (Errno::from_io_error(error), faults) {
        (Some(Errno::NOSYS), _) => Missing::Userfaultfd,
        (Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM), _) => Missing::Descriptors,
        (_, Faults::OfThreads) => Missing::NotPermitted,
        (_, Faults::OfKernelToo) => Missing::KernelFaults,
    }
}

#[cfg(test)]
mod tests;
