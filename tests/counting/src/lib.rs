//! The system's allocator, which counts what each thread asks of it: for tests of what must not allocate.
//!
//! ```
//! use vellum_counting::{Counting, allocations_of};
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! assert_eq!(allocations_of(|| ()), 0);
//! assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(7)))), 2);
//! ```
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// To be made the program's `#[global_allocator]`.
pub struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has none any more, and measures nothing.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: memory is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, old: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, old, size) }
    }
}

/// How often `work` allocates or frees, on this thread.
pub fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}
