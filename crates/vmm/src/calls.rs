//! What `kvm-ioctls` lacks of the kernel's calls.
#![allow(unsafe_code)]

use crate::port::Access;
use kvm_bindings::{KVM_EXIT_IO, KVMIO};
use kvm_ioctls::VcpuFd;
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

/// The access to a port by which the vCPU left the guest, if it was one. An exit hands out its bytes, but
/// not how they were made.
pub(crate) fn access(vcpu: &mut VcpuFd) -> Option<Access> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: K: with this reason the kernel has filled this member; it is of integers, which have no wrong
    // bits.
    let io = unsafe { run.__bindgen_anon_1.io };
    Some(Access { port: io.port, size: io.size, count: io.count })
}
