//! Frames for tables, from the heap: it is mapped one to one, so a physical address is a pointer.
#![allow(unsafe_code)]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;
use vellum_mmu::{EntryWord, Frame};
use vellum_pte::{PAGE_SHIFT, Pfn};

/// So many zeroed frames side by side, aligned to their size together, which is a power of two. `publish`
/// makes the zeros visible to walkers: see
/// [`Embedder::allocate_frame`](vellum_mmu::Embedder::allocate_frame).
pub fn allocate_frames(tables: u32, publish: impl FnOnce()) -> Option<Frame> {
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc_zeroed(layout(tables)) };
    let entries = NonNull::new(memory.cast::<EntryWord>())?;
    publish();
    let pfn = Pfn::of_address(memory.addr() as u64);
    // SAFETY: zeroed, aligned to its size, ours alone, and allocated until `release_frames`.
    Some(unsafe { Frame::from_raw(pfn, entries) })
}

/// Takes back what [`allocate_frames`] gave: the first frame, for all.
///
/// # Safety
/// It gave them, as many together, and nothing refers to them any more.
pub unsafe fn release_frames(first: Frame, tables: u32) {
    // SAFETY: by the caller's promise it was allocated with the same layout.
    unsafe { dealloc(first.entries().as_ptr().cast(), layout(tables)) };
}

fn layout(tables: u32) -> Layout {
    let bytes = (tables as usize) << PAGE_SHIFT;
    Layout::from_size_align(bytes, bytes).expect("a power of two of pages")
}
