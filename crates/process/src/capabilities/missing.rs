//! What to do where the kernel does not give it.

use crate::calls::Faults;
use rustix::io::Errno;
use std::io;

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
         container pass userfaultfd(2) and its ioctls"
    )]
    NotPermitted,
    /// A userfaultfd that cannot be opened for threads only, from before Linux 5.11, or of another version.
    #[error(
        "this kernel's userfaultfd is too old: take Linux 6.4 or newer for a watch and 6.7 or newer for \
         a log, on aarch64 6.10 or newer for either"
    )]
    TooOld,
    /// Write-protection that somebody answers: none, or not for memory that is shared or not there yet.
    #[error(
        "this kernel's userfaultfd cannot write-protect all memory: take Linux 6.4 or newer on x86-64, \
         6.10 or newer on aarch64"
    )]
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
    /// A filter in front of it.
    #[error(
        "this process may not make the call PAGEMAP_SCAN: let the seccomp filter or security module of \
         this container pass ioctl(2) of /proc/self/pagemap"
    )]
    ScanNotPermitted,
    /// The file that it is a call of.
    #[error("there is no /proc/self/pagemap: mount proc in this container")]
    Pagemap,
    /// The file is there, and may not be opened.
    #[error(
        "this process may not open /proc/self/pagemap: let its security module allow it, and make it \
         dumpable if it is not (PR_SET_DUMPABLE of prctl(2))"
    )]
    PagemapNotPermitted,
    /// No more descriptors.
    #[error("no descriptor is left: raise RLIMIT_NOFILE or fs.file-max, or close some")]
    Descriptors,
    /// No more memory, in the kernel or in this process's group.
    #[error(
        "the kernel has no memory left for it: free some, or raise the limit of this container"
    )]
    Memory,
}

impl Missing {
    /// userfaultfd(2) for `faults` failed.
    pub(super) fn by_opening(error: &io::Error, faults: Faults) -> Self {
        match (Errno::from_io_error(error), faults) {
            (Some(Errno::NOSYS), _) => Self::Userfaultfd,
            (Some(Errno::INVAL), _) => Self::TooOld,
            (_, Faults::OfThreads) => Self::by_any_call(error, Self::NotPermitted),
            (_, Faults::OfKernelToo) => Self::by_any_call(error, Self::KernelFaults),
        }
    }

    /// `UFFDIO_API` failed, which it does where the kernel lacks `lack`.
    pub(super) fn by_agreeing(error: &io::Error, lack: Self) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::INVAL) => lack,
            _ => Self::by_any_call(error, Self::NotPermitted),
        }
    }

    /// Opening `/proc/self/pagemap` failed.
    pub(super) fn by_opening_pagemap(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOENT) => Self::Pagemap,
            _ => Self::by_any_call(error, Self::PagemapNotPermitted),
        }
    }

    /// `PAGEMAP_SCAN` failed, of nothing.
    pub(super) fn by_scanning(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOTTY | Errno::INVAL) => Self::PagemapScan,
            _ => Self::by_any_call(error, Self::ScanNotPermitted),
        }
    }

    /// What every call may lack; or else what a filter says, in whatever words, is `refused`.
    fn by_any_call(error: &io::Error, refused: Self) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => Self::Descriptors,
            Some(Errno::NOMEM) => Self::Memory,
            _ => refused,
        }
    }
}
