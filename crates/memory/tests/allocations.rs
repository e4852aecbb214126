//! Logs are made with their memory: neither a mark nor a round allocates (M1).
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout as Size, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use vellum_memory::{
    AddressSpace, AlwaysLogs, DeviceLog, DirtySource, ForeignLog, Gfn, GfnRange, Layout, Mark,
    PageSet, Region, SlotId, Sources,
};

/// The system's allocator, which counts what a thread asks of it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has none any more, and measures nothing.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: memory is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, size: Size) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, size: Size) {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, size) };
    }

    unsafe fn realloc(&self, memory: *mut u8, old: Size, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, old, size) }
    }
}

/// How often `work` allocates or frees.
fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

const SPACE: AddressSpace = AddressSpace::NORMAL;

#[test]
fn neither_a_mark_nor_a_round_of_a_union_allocates() {
    let range = GfnRange::new(Gfn::new(3), 5000).expect("in range");
    let layout = Layout::new(vec![Region { slot: SlotId(0), space: SPACE, range }]);
    let layout = layout.expect("one region");
    let bits: Vec<_> = (0..100).map(|_| AtomicU64::new(0)).collect();
    let devices = DeviceLog::new(&layout).expect("memory");
    let marker = devices.marker();
    let foreign =
        ForeignLog::new(&layout, SPACE, bits.as_slice(), AlwaysLogs).expect("long enough");
    let mut union = Sources::new(devices).expect("memory");
    union.add(foreign).expect("the same layout");
    let mut round = PageSet::new(&layout);
    let used = allocations_of(|| {
        union.start().expect("it starts");
        marker.mark(SPACE, range);
        bits[7].store(u64::MAX, Ordering::Relaxed);
        union.collect(&mut round).expect("it is on");
        union.protect(0, range, &mut round).expect("it is on");
        union.owe(&round);
        union.stop().expect("it stops");
        marker.mark(SPACE, range);
    });
    assert_eq!(round.count(), 5000);
    assert_eq!(used, 0);
    assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(7)))), 2, "the count counts");
}
