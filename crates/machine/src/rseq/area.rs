//! Where the C library keeps each thread's rseq area.
#![allow(unsafe_code)]

use std::ffi::CStr;

/// The offset of every thread's `struct rseq` from its thread pointer, if the C library registered
/// one with the kernel. Looked up at run time: glibc has the symbols since 2.35, and only there.
pub(super) fn offset() -> Option<isize> {
    // SAFETY: glibc documents `__rseq_size` as `const unsigned int`, fixed before `main`.
    let size: u32 = unsafe { read_symbol(c"__rseq_size") }?;
    // SAFETY: glibc documents `__rseq_offset` as `const ptrdiff_t`, fixed before `main`.
    let offset: isize = unsafe { read_symbol(c"__rseq_offset") }?;
    // A size of zero means that registering failed or was tuned off.
    (size > 0).then_some(offset)
}

/// # Safety
/// The symbol, where it exists, is a `T` that nobody writes.
unsafe fn read_symbol<T: Copy>(name: &CStr) -> Option<T> {
    // SAFETY: the name ends with a zero byte; looking up a symbol has no other demand.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    let place = std::ptr::NonNull::new(address)?.cast::<T>();
    // SAFETY: the symbol exists, and the caller says that it is a `T`.
    Some(unsafe { place.read() })
}
