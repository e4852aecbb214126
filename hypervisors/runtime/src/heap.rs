//! The heap: the memory that the linker script sets aside.

use crate::region::heap;
use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Called once, before the first allocation.
pub(crate) fn prepare() {
    let region = heap();
    // SAFETY: the linker script gives the region to nobody else, and this is called once.
    unsafe { HEAP.lock().init(region.first.as_ptr(), region.bytes) }
}
