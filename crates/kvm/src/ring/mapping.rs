//! A vCPU's ring in this process.
#![allow(unsafe_code)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64};
use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};
use kvm_ioctls::VcpuFd;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use vellum_memory::PAGE_SIZE;

/// An entry, as the kernel lays it out. The kernel, and whoever else has the vCPU's descriptor, writes
/// it at any time.
#[repr(C)]
pub(super) struct Entry {
    pub(super) flags: AtomicU32,
    pub(super) slot: AtomicU32,
    pub(super) offset: AtomicU64,
}

const _: () = {
    assert!(size_of::<Entry>() == size_of::<kvm_dirty_gfn>());
    assert!(core::mem::offset_of!(Entry, offset) == core::mem::offset_of!(kvm_dirty_gfn, offset));
};

/// A mapping of a ring, unmapped when it is dropped.
pub(super) struct Mapping {
    base: NonNull<Entry>,
    entries: usize,
}

impl Mapping {
    /// Maps the ring of `vcpu`, which has `entries` entries.
    pub(super) fn of(vcpu: &VcpuFd, entries: u32) -> io::Result<Self> {
        Self::new(entries, libc::MAP_SHARED, vcpu.as_raw_fd(), offset())
    }

    /// Entries that no kernel writes.
    #[cfg(test)]
    pub(super) fn anonymous(entries: u32) -> io::Result<Self> {
        Self::new(entries, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn new(entries: u32, flags: i32, file: RawFd, offset: libc::off_t) -> io::Result<Self> {
        let entries = entries as usize;
        let (bytes, access) = (entries * size_of::<Entry>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: M: a new mapping, at a place that the kernel chooses, replaces none. If a ring had
        // fewer entries the kernel would refuse it.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, file, offset) };
        match NonNull::new(base) {
            Some(base) if base.as_ptr() != libc::MAP_FAILED => {
                Ok(Self { base: base.cast(), entries })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its entries.
    pub(super) fn entries(&self) -> &[Entry] {
        // SAFETY: M: `entries` of them are mapped until `self` is dropped, aligned to a page, and any
        // bytes are an entry. They are atomics, so it does not matter who else writes them.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.entries) }
    }
}

/// Where in a vCPU's descriptor its ring begins, in bytes.
fn offset() -> libc::off_t {
    libc::off_t::from(KVM_DIRTY_LOG_PAGE_OFFSET.cast_signed()) * PAGE_SIZE.cast_signed()
}

// SAFETY: M: the mapping belongs to the process, not to a thread, and its entries are atomics.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: M: it was mapped with this length, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.entries * size_of::<Entry>()) };
    }
}
