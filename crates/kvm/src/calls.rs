//! The calls of the kernel's that `kvm-ioctls` lacks, one function each.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr;
use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_SET_USER_MEMORY_REGION, KVMIO, 0x46, kvm_userspace_memory_region);
ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
ioctl_iow_nr!(KVM_ENABLE_CAP, KVMIO, 0xa3, kvm_enable_cap);

/// Whether a memslot's writes are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Logging {
    /// They are.
    On,
    /// They are not.
    Off,
}

/// A descriptor of a VM, which keeps it alive.
#[derive(Debug)]
pub(crate) struct Vm(OwnedFd);

impl Vm {
    /// Another descriptor of `vm`.
    pub(crate) fn of(vm: &VmFd) -> io::Result<Self> {
        // SAFETY: `vm` owns this descriptor, and is borrowed until it has been duplicated.
        let borrowed = unsafe { BorrowedFd::borrow_raw(vm.as_raw_fd()) };
        Ok(Self(borrowed.try_clone_to_owned()?))
    }

    /// `KVM_ENABLE_CAP`, of a capability with one argument.
    pub(crate) fn enable(&self, capability: u32, argument: u64) -> io::Result<()> {
        let mut cap = kvm_enable_cap { cap: capability, ..Default::default() };
        cap.args[0] = argument;
        // SAFETY: K: the kernel reads a `kvm_enable_cap`, and gets one.
        done(unsafe { ioctl_with_ref(&self.0, KVM_ENABLE_CAP(), &cap) })
    }

    /// `KVM_SET_USER_MEMORY_REGION`.
    ///
    /// # Safety
    /// S: the VM has this very slot, and only its flags are other.
    pub(crate) unsafe fn set_memory(&self, region: &kvm_userspace_memory_region) -> io::Result<()> {
        // SAFETY: K: the kernel reads a `kvm_userspace_memory_region`. S: it maps nothing that was not
        // mapped.
        done(unsafe { ioctl_with_ref(&self.0, KVM_SET_USER_MEMORY_REGION(), region) })
    }

    /// `KVM_GET_DIRTY_LOG`: fills `bitmap`, a bit a page. In a VM with manual protection it only reads;
    /// in another it empties the kernel's bitmap and protects what was in it.
    ///
    /// # Safety
    /// S: the slot has at most `64 * bitmap.len()` pages.
    pub(crate) unsafe fn get_dirty_log(&self, slot: u32, bitmap: &mut [u64]) -> io::Result<()> {
        let dirty_bitmap = bitmap.as_mut_ptr().cast();
        let log = kvm_dirty_log {
            slot,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap },
            ..Default::default()
        };
        // SAFETY: K: the kernel reads a `kvm_dirty_log`. S: it writes whole words, one for each 64
        // pages of the slot, and `bitmap` has as many.
        done(unsafe { ioctl_with_ref(&self.0, KVM_GET_DIRTY_LOG(), &log) })
    }

    /// `KVM_CLEAR_DIRTY_LOG`: takes the pages `first + i` for each bit i of `bitmap` that is below
    /// `pages` out of the log, and protects them. `first` is a multiple of 64; so is `pages`, unless
    /// it ends with the slot.
    pub(crate) fn clear_dirty_log(
        &self,
        slot: u32,
        first: u64,
        pages: u32,
        bitmap: &[u64],
    ) -> io::Result<()> {
        if (bitmap.len() as u64) < u64::from(pages).div_ceil(64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let dirty_bitmap = bitmap.as_ptr().cast_mut().cast();
        let mut log = kvm_clear_dirty_log {
            slot,
            num_pages: pages,
            first_page: first,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap },
        };
        // SAFETY: K: the kernel reads and writes a `kvm_clear_dirty_log`, and only reads whole words,
        // one for each 64 of `pages`, which `bitmap` has.
        done(unsafe { ioctl_with_mut_ref(&self.0, KVM_CLEAR_DIRTY_LOG(), &mut log) })
    }

    /// `KVM_RESET_DIRTY_RINGS`: takes back the entries of all rings that are marked as harvested, and
    /// protects their pages. Says how many. A signal may end it early, with fewer.
    pub(crate) fn reset_dirty_rings(&self) -> io::Result<u32> {
        // SAFETY: K: it has no argument, and reads no memory but the rings.
        let taken = unsafe { ioctl(&self.0, KVM_RESET_DIRTY_RINGS()) };
        u32::try_from(taken).map_err(|_| io::Error::last_os_error())
    }
}

fn done(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Does `work` with no signal for this thread but those that cannot be kept away; they come after it.
pub(crate) fn undisturbed<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let before = Signals::keep_away()?;
    let done = work();
    drop(before);
    Ok(done)
}

/// The signals that this thread kept away before.
struct Signals(libc::sigset_t);

impl Signals {
    fn keep_away() -> io::Result<Self> {
        let mut all = MaybeUninit::uninit();
        // SAFETY: K: it writes a whole `sigset_t`.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        let mut before = MaybeUninit::uninit();
        // SAFETY: K: it reads a set that was just filled, and writes a whole one.
        let kept =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        match kept {
            // SAFETY: it was written, since the call did not fail.
            0 => Ok(Self(unsafe { before.assume_init() })),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: K: it reads a whole set, and is asked to write none. With these arguments it does
        // not fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Calls again what a signal has interrupted, or what the kernel had no time for just now.
pub(crate) fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..PATIENCE {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            other => return other,
        }
    }
    call()
}

/// How often a call is made again: more signals than come by chance, and no loop for ever.
pub(crate) const PATIENCE: u32 = 1000;
