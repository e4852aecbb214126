//! Memory outside of the image, as the linker script divides it.

use core::ptr::NonNull;

unsafe extern "C" {
    static mut heap_start: u8;
    static mut heap_end: u8;
    static mut guest_memory_start: u8;
    static mut guest_memory_end: u8;
}

/// A stretch of memory, mapped one to one.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Its first byte.
    pub first: NonNull<u8>,
    /// Its size.
    pub bytes: usize,
}

/// 32 MiB for a guest, aligned to 2 MiB, that nothing in this program uses.
#[must_use]
pub fn guest_memory() -> Region {
    between(&raw mut guest_memory_start, &raw mut guest_memory_end)
}

pub(crate) fn heap() -> Region {
    between(&raw mut heap_start, &raw mut heap_end)
}

fn between(first: *mut u8, end: *mut u8) -> Region {
    let bytes = end.addr() - first.addr();
    Region { first: NonNull::new(first).expect("not at address 0"), bytes }
}
