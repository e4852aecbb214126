//! The dirty log of `/dev/kvm` by bare ioctls: what somebody would write who needs one thing only.
#![allow(unsafe_code)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kvm_bindings::{
    KVM_DIRTY_LOG_PAGE_OFFSET, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1,
    kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
};
use number::{KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG, KVM_RESET_DIRTY_RINGS};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref};

/// The calls' numbers.
mod number {
    use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};
    use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

    ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
    ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
    ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
}

/// A slot's bitmap.
pub struct Bitmap {
    vm: OwnedFd,
    slot: u32,
    pages: u32,
    words: Vec<u64>,
}

impl Bitmap {
    /// Of the memslot `slot` of `vm`.
    ///
    /// # Safety
    /// S: the slot has so many pages, as long as this value is used.
    #[must_use]
    pub unsafe fn new(vm: OwnedFd, slot: u32, pages: u32) -> Self {
        Self { vm, slot, pages, words: vec![0; pages.div_ceil(64) as usize] }
    }

    /// `KVM_GET_DIRTY_LOG`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&mut self) -> io::Result<()> {
        let dirty_bitmap = self.words.as_mut_ptr().cast();
        let log = kvm_dirty_log {
            slot: self.slot,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap },
            ..Default::default()
        };
        // SAFETY: K: it reads a `kvm_dirty_log`. S: it writes a bit for each page of the slot.
        done(unsafe { ioctl_with_ref(&self.vm, KVM_GET_DIRTY_LOG(), &log) })
    }

    /// `KVM_CLEAR_DIRTY_LOG` of all that the last get said.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&mut self) -> io::Result<()> {
        let dirty_bitmap = self.words.as_mut_ptr().cast();
        let mut log = kvm_clear_dirty_log {
            slot: self.slot,
            num_pages: self.pages,
            first_page: 0,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap },
        };
        // SAFETY: K: it reads and writes a `kvm_clear_dirty_log`, and reads a bit for each page.
        done(unsafe { ioctl_with_mut_ref(&self.vm, KVM_CLEAR_DIRTY_LOG(), &mut log) })
    }

    /// What the last get said, 64 pages a word.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

/// An entry of a ring, as `kvm_dirty_gfn` is.
#[repr(C)]
struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
}

const DIRTY: u32 = 1;
const HARVESTED: u32 = 2;

/// A vCPU's ring.
pub struct Ring {
    vm: OwnedFd,
    entries: NonNull<[Entry]>,
    next: usize,
}

// SAFETY: M: the entries are atomics, in a mapping that only goes with this value.
unsafe impl Send for Ring {}

impl Ring {
    /// The ring of `vcpu`, which has so many entries, a power of two.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(vm: OwnedFd, vcpu: &impl AsRawFd, entries: usize) -> io::Result<Self> {
        let (offset, protection) =
            (i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * 4096, libc::PROT_READ | libc::PROT_WRITE);
        let (bytes, fd) = (entries * size_of::<Entry>(), vcpu.as_raw_fd());
        // SAFETY: K: a new mapping at a place of the kernel's choice.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, offset) };
        match NonNull::new(base.cast::<Entry>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { vm, entries: NonNull::slice_from_raw_parts(base, entries), next: 0 })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hands over slot and offset of every page that the vCPU has written, and marks the entries for
    /// [`reset`](Self::reset).
    pub fn harvest(&mut self, mut found: impl FnMut(u32, u64)) -> u32 {
        // SAFETY: M: the entries are there as long as this value.
        let entries = unsafe { self.entries.as_ref() };
        let mut taken = 0;
        loop {
            let entry = &entries[self.next & (entries.len() - 1)];
            if entry.flags.load(Ordering::Acquire) & DIRTY == 0 {
                return taken;
            }
            found(entry.slot.load(Ordering::Relaxed), entry.offset.load(Ordering::Relaxed));
            entry.flags.store(HARVESTED, Ordering::Release);
            self.next += 1;
            taken += 1;
        }
    }

    /// `KVM_RESET_DIRTY_RINGS`: how many entries the kernel took back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reset(&self) -> io::Result<u32> {
        // SAFETY: K: it has no argument.
        let taken = unsafe { ioctl(&self.vm, KVM_RESET_DIRTY_RINGS()) };
        u32::try_from(taken).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let bytes = self.entries.len() * size_of::<Entry>();
        // SAFETY: M: it is this value's, and nobody has a reference into it.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes) };
    }
}

fn done(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
