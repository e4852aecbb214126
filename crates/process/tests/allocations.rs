//! A round allocates nothing.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use vellum_counting::{Counting, allocations_of};
use vellum_memory::{AddressSpace, DirtySource, Gfn, GfnRange, PageSet, SlotId};
use vellum_presence::{Need, given};
use vellum_process::{Capabilities, Facility, Mapping, ProcessLog};

#[global_allocator]
static COUNTING: Counting = Counting;

/// More than a scan has room for, where every other page is written; forty huge pages.
const PAGES: usize = 20_480;
const BYTES: usize = PAGES * 4096;

/// Memory, which is mapped as long as this is there.
struct Memory(*mut u8);

impl Memory {
    /// Of the pool of huge pages or not, as `pool` says.
    fn new(pool: MapFlags) -> std::io::Result<Self> {
        let (flags, read_write) = (MapFlags::PRIVATE | pool, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), BYTES, read_write, flags) }?;
        Ok(Self(base.cast()))
    }

    fn write_every_other(&self) {
        // SAFETY: in the mapping.
        let write = |page| unsafe { self.0.wrapping_add(page * 4096).write_volatile(1) };
        (0..PAGES).step_by(2).for_each(write);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, which nobody uses any more.
        unsafe { munmap(self.0.cast(), BYTES) }.expect("it was mapped");
    }
}

/// What two rounds allocate, the second of which has `dirty` pages.
fn of_two_rounds(memory: &Memory, dirty: u64) -> u64 {
    let range = GfnRange::new(Gfn::new(0), PAGES as u64).expect("a range");
    let mapping = Mapping::new(SlotId(0), AddressSpace::NORMAL, range, memory.0);
    // SAFETY: M: the memory stays longer than the log.
    let log = unsafe { ProcessLog::new(vec![mapping.expect("whole pages")]) };
    let mut log = log.expect("a log");
    let mut round = PageSet::new(log.layout());
    log.start().expect("the log starts");
    memory.write_every_other();
    let counted = allocations_of(|| {
        log.collect(&mut round).expect("a round");
        log.protect(0, range, &mut round).expect("protected");
        log.owe(&round);
        log.collect(&mut round).expect("a round");
    });
    assert_eq!(round.count(), dirty);
    counted
}

#[test]
fn a_round_allocates_nothing_and_the_count_is_no_fake() {
    let supported = Capabilities::of_this_process().supports(Facility::Log);
    let Some(()) = given(Need::PagemapScan, supported) else { return };
    let memory = Memory::new(MapFlags::empty()).expect("memory");
    assert_eq!(of_two_rounds(&memory, PAGES as u64 / 2), 0);
    assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(1)))), 2, "the count counts");
}

/// There a round makes a pass of its own for what was given back.
#[test]
fn nor_does_one_of_the_pool_of_huge_pages() {
    let supported = Capabilities::of_this_process().supports(Facility::Log);
    let Some(()) = given(Need::PagemapScan, supported) else { return };
    let pool = Memory::new(MapFlags::HUGETLB).map_err(|error| {
        format!("no memory of 2 MiB pages (sysctl vm.nr_hugepages=40 makes some): {error}")
    });
    let Some(memory) = given(Need::HugePages(BYTES as u64), pool) else { return };
    assert_eq!(of_two_rounds(&memory, PAGES as u64), 0);
}
