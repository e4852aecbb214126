//! The calls of the kernel's, one function each: userfaultfd(2), its ioctls, and `PAGEMAP_SCAN`.
#![allow(unsafe_code)]

use core::ffi::c_void;
use core::ops::Range;
use linux_raw_sys::general::{
    _UFFDIO_ZEROPAGE, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING, UFFD_API, UFFD_USER_MODE_ONLY, UFFDIO_REGISTER_MODE_WP, page_region,
    pm_scan_arg, uffdio_api, uffdio_range, uffdio_register, uffdio_writeprotect,
};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::mm::{UserfaultfdFlags, userfaultfd};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const NEW: Opcode = opcode::none(0xaa, 0x00);
const API: Opcode = opcode::read_write::<uffdio_api>(0xaa, 0x3f);
const REGISTER: Opcode = opcode::read_write::<uffdio_register>(0xaa, 0x00);
const UNREGISTER: Opcode = opcode::read::<uffdio_range>(0xaa, 0x01);
const WAKE: Opcode = opcode::read::<uffdio_range>(0xaa, 0x02);
const WRITE_PROTECT: Opcode = opcode::read_write::<uffdio_writeprotect>(0xaa, 0x06);
const PAGEMAP_SCAN: Opcode = opcode::read_write::<pm_scan_arg>(b'f', 16);

/// `UFFDIO_WRITEPROTECT_MODE_WP` of linux/userfaultfd.h.
const MODE_PROTECT: u64 = 1;

/// Of the calls that may be made for registered memory, `UFFDIO_ZEROPAGE`: hugetlbfs has no zero page.
const ZERO_PAGE: u64 = 1 << _UFFDIO_ZEROPAGE;

/// Whose faults a userfaultfd handles where somebody has to answer them. Those that the kernel answers
/// by itself (asynchronous write-protection) are everybody's in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Faults {
    /// Of threads in user mode. A fault that the kernel takes in a system call fails there.
    OfThreads,
    /// The kernel's too: it stands in the system call.
    OfKernelToo,
}

/// What memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Made {
    /// Pages that the kernel handles one by one, though it may map many as a huge one.
    OfPages,
    /// Pages of hugetlbfs, which are handled whole.
    OfHugePages,
}

/// Whether pages are write-protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protection {
    /// They are.
    On,
    /// They are not, and who waits for one is woken.
    Off,
}

/// What a scan looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pass {
    /// Pages that have been written, which it protects again.
    Written,
    /// Places that hold neither a page nor the mark of a protected one: what was there was given
    /// back. It protects nothing.
    Vacant,
}

/// How far a scan came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scanned {
    /// How many entries it has filled.
    pub(crate) filled: usize,
    /// The address to go on from.
    pub(crate) end: u64,
}

/// userfaultfd(2).
pub(crate) fn open(faults: Faults) -> io::Result<OwnedFd> {
    let flags = UserfaultfdFlags::from_bits_retain(mode(faults))
        | UserfaultfdFlags::CLOEXEC
        | UserfaultfdFlags::NONBLOCK;
    // SAFETY: it handles no memory before `register`, whose caller makes the promise.
    Ok(unsafe { userfaultfd(flags) }?)
}

/// `USERFAULTFD_IOC_NEW` of an open `/dev/userfaultfd`, whose permissions say who may.
pub(crate) fn open_by(device: &File, faults: Faults) -> io::Result<OwnedFd> {
    let flags = mode(faults) | UserfaultfdFlags::CLOEXEC.bits() | UserfaultfdFlags::NONBLOCK.bits();
    // SAFETY: K: it takes a number, and accesses no memory.
    let fd = unsafe { ioctl(device, Number { opcode: NEW, value: flags as usize }) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn mode(faults: Faults) -> u32 {
    match faults {
        Faults::OfThreads => UFFD_USER_MODE_ONLY,
        Faults::OfKernelToo => 0,
    }
}

/// `UFFDIO_API`, once for each descriptor: asks for `features`, and says all that there are. Asked for
/// none, it never fails for one that is missing.
pub(crate) fn agree(faults: &OwnedFd, features: u64) -> io::Result<u64> {
    let mut api = uffdio_api { api: UFFD_API.into(), features, ioctls: 0 };
    // SAFETY: K: the kernel reads and writes a `uffdio_api`, and gets one.
    unsafe { ioctl(faults, Argument { opcode: API, argument: &mut api }) }?;
    Ok(api.features)
}

/// `UFFDIO_REGISTER` for write-protection. Says of what the memory is.
///
/// # Safety
/// M: the bytes lie in a mapping of this process, which stays.
pub(crate) unsafe fn register(faults: &OwnedFd, bytes: &Range<u64>) -> io::Result<Made> {
    let mode = UFFDIO_REGISTER_MODE_WP.into();
    let mut register = uffdio_register { range: range(bytes), mode, ioctls: 0 };
    // SAFETY: K: the kernel reads and writes a `uffdio_register`. M: faults of this memory are the
    // caller's to handle.
    unsafe { ioctl(faults, Argument { opcode: REGISTER, argument: &mut register }) }?;
    match register.ioctls & ZERO_PAGE {
        0 => Ok(Made::OfHugePages),
        _ => Ok(Made::OfPages),
    }
}

/// `UFFDIO_UNREGISTER`: the protection of all pages ends. Who waits goes on waiting.
pub(crate) fn unregister(faults: &OwnedFd, bytes: &Range<u64>) -> io::Result<()> {
    let mut range = range(bytes);
    // SAFETY: K: the kernel reads a `uffdio_range`. It takes back what `register` did, and no more.
    unsafe { ioctl(faults, Argument { opcode: UNREGISTER, argument: &mut range }) }?;
    Ok(())
}

/// `UFFDIO_WAKE`: who waits for a page here tries again.
pub(crate) fn wake(faults: &OwnedFd, bytes: &Range<u64>) -> io::Result<()> {
    let mut range = range(bytes);
    // SAFETY: K: the kernel reads a `uffdio_range`.
    unsafe { ioctl(faults, Argument { opcode: WAKE, argument: &mut range }) }?;
    Ok(())
}

/// `UFFDIO_WRITEPROTECT`, of memory that is registered.
pub(crate) fn write_protect(
    faults: &OwnedFd,
    bytes: &Range<u64>,
    protection: Protection,
) -> io::Result<()> {
    let mode = match protection {
        Protection::On => MODE_PROTECT,
        Protection::Off => 0,
    };
    let mut protect = uffdio_writeprotect { range: range(bytes), mode };
    // SAFETY: K: the kernel reads a `uffdio_writeprotect`. It refuses memory that was not registered
    // with this descriptor.
    unsafe { ioctl(faults, Argument { opcode: WRITE_PROTECT, argument: &mut protect }) }?;
    Ok(())
}

/// `PAGEMAP_SCAN`: fills `found` with what `pass` looks for in `bytes`, until it is full. It fails
/// with `EPERM` where memory is not registered for asynchronous write-protection.
pub(crate) fn scan(
    pagemap: &File,
    pass: Pass,
    bytes: &Range<u64>,
    found: &mut [page_region],
) -> io::Result<Scanned> {
    let mut scan = pm_scan_arg {
        vec: found.as_mut_ptr().expose_provenance() as u64,
        vec_len: found.len() as u64,
        ..criteria(pass, bytes)
    };
    // SAFETY: K: the kernel reads and writes a `pm_scan_arg`, and writes at most `vec_len` structures
    // `page_region` from `vec` on, which is where `found` has as many.
    let filled = unsafe { ioctl(pagemap, Argument { opcode: PAGEMAP_SCAN, argument: &mut scan }) }?;
    let filled = usize::try_from(filled).unwrap_or(0).min(found.len());
    Ok(Scanned { filled, end: scan.walk_end })
}

fn criteria(pass: Pass, bytes: &Range<u64>) -> pm_scan_arg {
    let (flags, inverted, mask, answer) = match pass {
        Pass::Written => {
            (PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, 0, PAGE_IS_WRITTEN, PAGE_IS_WRITTEN)
        }
        Pass::Vacant => {
            let there = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
            (PM_SCAN_CHECK_WPASYNC, there, there, 0)
        }
    };
    pm_scan_arg {
        size: size_of::<pm_scan_arg>() as u64,
        flags: flags.into(),
        start: bytes.start,
        end: bytes.end,
        walk_end: 0,
        vec: 0,
        vec_len: 0,
        max_pages: 0,
        category_inverted: inverted.into(),
        category_mask: mask.into(),
        category_anyof_mask: 0,
        return_mask: answer.into(),
    }
}

fn range(bytes: &Range<u64>) -> uffdio_range {
    uffdio_range { start: bytes.start, len: bytes.end - bytes.start }
}

/// An ioctl with a structure that the kernel reads, and writes to where the opcode says so.
struct Argument<'a, T> {
    opcode: Opcode,
    argument: &'a mut T,
}

// SAFETY: the pointer is that of a structure whose size is part of the opcode, as the constants above
// pair them; the output is the call's own.
unsafe impl<T> Ioctl for Argument<'_, T> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.argument).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

/// An ioctl whose argument is a number.
struct Number {
    opcode: Opcode,
    value: usize,
}

// SAFETY: the kernel takes the argument for a number, and accesses no memory; the output is the
// call's own.
unsafe impl Ioctl for Number {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        core::ptr::without_provenance_mut(self.value)
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

/// Makes a call again that was interrupted or found the address space just changing, for a while.
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

impl Pass {
    /// Makes a scan, [`again`] if it changes nothing. One that protects what it finds is made once: what
    /// a failed one has protected, another would not find.
    pub(crate) fn made<T>(self, mut scan: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Written => scan(),
            Self::Vacant => again(scan),
        }
    }
}

/// How often: more than happens by chance, and no loop for ever.
const PATIENCE: u32 = 1000;

/// The opcodes of linux/userfaultfd.h, as `linux-raw-sys` has them.
const _: () = {
    use linux_raw_sys::ioctl;
    assert!(API as u64 == ioctl::UFFDIO_API as u64);
    assert!(REGISTER as u64 == ioctl::UFFDIO_REGISTER as u64);
    assert!(UNREGISTER as u64 == ioctl::UFFDIO_UNREGISTER as u64);
    assert!(WAKE as u64 == ioctl::UFFDIO_WAKE as u64);
    assert!(WRITE_PROTECT as u64 == ioctl::UFFDIO_WRITEPROTECT as u64);
};

#[cfg(test)]
mod tests;
