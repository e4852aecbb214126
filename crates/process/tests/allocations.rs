//! A round allocates nothing.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use vellum_memory::{AddressSpace, DirtySource, Gfn, GfnRange, PageSet, SlotId};
use vellum_presence::{Need, given};
use vellum_process::{Capabilities, Facility, Mapping, ProcessLog};

/// Counts what the thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, and a count beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// More than a scan has room for, where every other page is written.
const PAGES: usize = 20_000;
const BYTES: usize = PAGES * 4096;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_round_allocates_nothing_and_the_count_is_no_fake() {
    let supported = Capabilities::of_this_process().supports(Facility::Log);
    let Some(()) = given(Need::PagemapScan, supported) else { return };
    let (flags, read_write) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping, where the kernel likes.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), BYTES, read_write, flags) };
    let base = base.expect("memory").cast::<u8>();
    let range = GfnRange::new(Gfn::new(0), PAGES as u64).expect("a range");
    let mapping = Mapping::new(SlotId(0), AddressSpace::NORMAL, range, base).expect("whole pages");
    // SAFETY: M: it is unmapped after the log is gone.
    let mut log = unsafe { ProcessLog::new(vec![mapping]) }.expect("a log");
    let mut round = PageSet::new(log.layout());
    log.start().expect("the log starts");
    // SAFETY: in the mapping.
    (0..PAGES)
        .step_by(2)
        .for_each(|page| unsafe { base.wrapping_add(page * 4096).write_volatile(1) });
    let counted = allocations(|| {
        log.collect(&mut round).expect("a round");
        log.protect(0, range, &mut round).expect("protected");
        log.owe(&round);
        log.collect(&mut round).expect("a round");
    });
    assert_eq!((counted, round.count()), (0, PAGES as u64 / 2));
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1, "the count counts");
    drop(log);
    // SAFETY: mapped above, and nobody uses it any more.
    unsafe { munmap(base.cast(), BYTES) }.expect("it was mapped");
}
