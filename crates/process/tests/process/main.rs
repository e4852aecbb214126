//! The log and the watch over memory of this process, held to a copy of that memory.
//!
//! Where the kernel lacks what a test needs, the test says `not run` and why.
#![cfg(target_os = "linux")]

mod contract;
mod controls;
mod discards;
mod hugetlb;
mod kernel_writes;
mod memory;
mod oracle;
mod others;
mod pinned;
mod watching;

use memory::{Kind, Memory};

use vellum_memory::{AddressSpace, Gfn, GfnRange, SlotId};
use vellum_presence::{Need, given};
use vellum_process::{Capabilities, Facility, Mapping, ProcessLog, WriteWatch, Writers};

/// No multiple of 64, nor of what a huge page has.
const PAGES: u64 = 1027;
/// Where the guest has its memory.
const BASE: u64 = 0x1003;

/// A log over `memory`, or the reason why the test is not run.
fn log_of(memory: &Memory) -> Option<ProcessLog> {
    given(Need::PagemapScan, Capabilities::of_this_process().supports(Facility::Log))?;
    let mapping = mapping(memory, 0, BASE);
    // SAFETY: M: the memory is declared before the log by each test, and so dropped after it.
    #[allow(unsafe_code)]
    Some(unsafe { ProcessLog::new(vec![mapping]) }.expect("what is supported can be made"))
}

/// A watch over `memory`, likewise.
fn watch_of(memory: &Memory, writers: Writers) -> Option<WriteWatch> {
    let (need, facility) = match writers {
        Writers::Threads => (Need::Userfaultfd, Facility::WatchThreads),
        Writers::ThreadsAndKernel => (Need::KernelFaults, Facility::WatchKernelToo),
    };
    given(need, Capabilities::of_this_process().supports(facility))?;
    Some(watch_over(memory, writers))
}

/// The same past the gate.
fn watch_over(memory: &Memory, writers: Writers) -> WriteWatch {
    let mapping = mapping(memory, 0, BASE);
    // SAFETY: M, as above.
    #[allow(unsafe_code)]
    unsafe { WriteWatch::new(vec![mapping], writers) }.expect("what is supported can be made")
}

fn mapping(memory: &Memory, slot: u16, base: u64) -> Mapping {
    let range = GfnRange::new(Gfn::new(base), memory.pages()).expect("a range");
    Mapping::new(SlotId(slot), AddressSpace::NORMAL, range, memory.base()).expect("whole pages")
}

/// Does `test` with memory of each kind that the machine has, but of the pool of huge pages.
fn each_kind(mut test: impl FnMut(Kind, Memory)) {
    for kind in Kind::OF_SMALL_PAGES.into_iter().filter(|kind| kind.is_given()) {
        test(kind, Memory::new(kind, PAGES).expect("memory"));
    }
}
