//! The call of the kernel's that `kvm-ioctls` lacks.
#![allow(unsafe_code)]

use kvm_bindings::KVMIO;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// `KVM_GET_STATS_FD`: a file of the statistics of a VM or of a vCPU.
pub(crate) fn statistics(of: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: K: it has no argument, and reads no memory of this process.
    let fd = unsafe { ioctl(of, KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}
