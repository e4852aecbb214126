//! The guest's memory: a range of the host's, mapped one to one by the hypervisor.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use vellum_mmu::NoBacking;
use vellum_pte::{Gpa, PAGE_SIZE, Pfn};

/// Host memory that a guest sees from its address 0 on.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory {
    first: NonNull<u8>,
    bytes: u64,
}

// SAFETY: all access goes through atomics; what a guest does to it meanwhile is what another CPU may.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// `bytes` of memory from `first` on, which the hypervisor reaches at their physical address.
    ///
    /// # Safety
    /// The memory is nobody else's, aligned to 2 MiB, and stays.
    #[must_use]
    pub const unsafe fn new(first: NonNull<u8>, bytes: u64) -> Self {
        Self { first, bytes }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The host frame behind the page at `gpa`, if there is one.
    #[must_use]
    pub fn frame(&self, gpa: Gpa) -> Option<Pfn> {
        let start = gpa.get() & !(PAGE_SIZE - 1);
        (start < self.bytes).then(|| Pfn::of_address(self.first.as_ptr().addr() as u64 + start))
    }

    /// Copies `bytes` to `gpa`: eight aligned ones at once, as the store would have been that they stand
    /// for.
    ///
    /// # Errors
    /// [`NoBacking`] if they do not fit in; nothing was written.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), NoBacking> {
        let place = self.place(gpa, bytes.len())?;
        if let (Ok(bytes), true) = (bytes.try_into(), place.cast::<u64>().is_aligned()) {
            word(place).store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            return Ok(());
        }
        for (offset, value) in bytes.iter().enumerate() {
            byte(place, offset).store(*value, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The eight bytes at `gpa`.
    ///
    /// # Errors
    /// [`NoBacking`] if there are none.
    pub fn read(&self, gpa: Gpa) -> Result<u64, NoBacking> {
        let place = self.place(gpa, 8)?;
        if place.cast::<u64>().is_aligned() {
            return Ok(word(place).load(Ordering::Relaxed));
        }
        let load = |offset| byte(place, offset).load(Ordering::Relaxed);
        Ok(u64::from_le_bytes(core::array::from_fn(load)))
    }

    /// Fills all of it with zeros.
    pub fn clear(&self) {
        // SAFETY: all of it is inside, by the promise of `new`.
        unsafe { self.first.as_ptr().write_bytes(0, size(self.bytes)) };
    }

    fn place(&self, gpa: Gpa, length: usize) -> Result<NonNull<u8>, NoBacking> {
        let end = gpa.get().checked_add(length as u64).ok_or(NoBacking)?;
        if end > self.bytes {
            return Err(NoBacking);
        }
        // SAFETY: inside, by the promise of `new`.
        Ok(unsafe { self.first.add(size(gpa.get())) })
    }
}

/// Eight aligned bytes of the guest's memory.
fn word(place: NonNull<u8>) -> &'static AtomicU64 {
    // SAFETY: inside, as `GuestMemory::place` has said, aligned, and there for good.
    unsafe { AtomicU64::from_ptr(place.cast().as_ptr()) }
}

/// One byte of it, `offset` further on.
fn byte(place: NonNull<u8>, offset: usize) -> &'static AtomicU8 {
    // SAFETY: whoever has `place` has asked for so many bytes.
    let place = unsafe { place.add(offset) };
    // SAFETY: as above.
    unsafe { AtomicU8::from_ptr(place.as_ptr()) }
}

/// A number of bytes as a size.
#[expect(clippy::cast_possible_truncation, reason = "processors with a second stage have 64 bits")]
const fn size(bytes: u64) -> usize {
    bytes as usize
}
