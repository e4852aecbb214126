//! Fallible allocation: the only way this crate gets memory.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;

/// The allocator had nothing left. Nothing was changed; the call may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("out of memory")]
pub struct OutOfMemory;

/// `Box::new` that can fail, and then gives the value back.
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, (OutOfMemory, T)> {
    let layout = Layout::new::<T>();
    assert!(layout.size() != 0, "boxes here hold something");
    // SAFETY: the layout is not of size zero.
    let memory = unsafe { alloc::alloc::alloc(layout) }.cast::<T>();
    if memory.is_null() {
        return Err((OutOfMemory, value));
    }
    // SAFETY: fresh memory of T's layout.
    unsafe { memory.write(value) };
    // SAFETY: it comes from the global allocator with T's layout and holds a T.
    Ok(unsafe { Box::from_raw(memory) })
}

/// A boxed slice of `length` values, or an error.
pub(crate) fn try_slice<T>(
    length: usize,
    make: impl FnMut() -> T,
) -> Result<Box<[T]>, OutOfMemory> {
    let mut values = Vec::new();
    values.try_reserve_exact(length).map_err(|_| OutOfMemory)?;
    values.extend(core::iter::repeat_with(make).take(length));
    Ok(values.into_boxed_slice())
}

/// Room for one more, or an error.
pub(crate) fn try_reserve_one<T>(values: &mut Vec<T>) -> Result<(), OutOfMemory> {
    values.try_reserve(1).map_err(|_| OutOfMemory)
}
