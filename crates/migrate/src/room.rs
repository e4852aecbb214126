//! Memory asked for in a way that can be refused: a side that has none answers, and does not die.

use std::collections::TryReserveError;
use std::io::{self, ErrorKind};
use vm_memory::MmapRegion;

/// A thread's stack, with what it needs besides.
const THREAD: usize = 4 << 20;

/// A buffer of `length` zeros.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn zeros(length: usize) -> Result<Vec<u8>, TryReserveError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(length)?;
    buffer.resize(length, 0);
    Ok(buffer)
}

/// Whether a thread would find room. One that has its stack and then finds none for its signals'
/// ends the process (Rust's library sees to that), so this is asked before it is begun.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`].
pub(crate) fn for_a_thread() -> io::Result<()> {
    // From where stacks come, which is not where buffers do.
    match MmapRegion::<()>::new(THREAD) {
        Ok(_) => Ok(()),
        Err(_) => Err(ErrorKind::OutOfMemory.into()),
    }
}
