#![allow(unsafe_code)]

use super::ProcessLog;
use super::tracked::Vacancies;
use crate::calls::{self, Pass, Protection};
use crate::{Call, Capabilities, Facility, Mapping, ProcessError};
use linux_raw_sys::general::page_region;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::ptr;
use vellum_memory::{AddressSpace, DirtySource, Gfn, GfnRange, Misuse, PageSet, SlotId};
use vellum_presence::{Need, given};

const PAGE: usize = 4096;
/// Twice what a page table is over, and a bit.
const PAGES: usize = 1030;

/// Private memory.
struct Memory(*mut u8);

impl Memory {
    fn new() -> Self {
        let (flags, read_write) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), PAGES * PAGE, read_write, flags) };
        Self(base.expect("memory").cast())
    }

    fn write(&self, page: usize) {
        // SAFETY: in the mapping.
        unsafe { self.0.wrapping_add(page * PAGE).write_volatile(1) };
    }

    fn give_back(&self, first: usize, pages: usize) {
        let at = self.0.wrapping_add(first * PAGE);
        // SAFETY: in the mapping, which nobody has a reference to.
        unsafe { madvise(at.cast(), pages * PAGE, Advice::LinuxDontNeed) }.expect("given back");
    }

    fn mapping(&self, slot: u16) -> Mapping {
        let range = GfnRange::new(Gfn::new(0x10000 * u64::from(slot)), PAGES as u64);
        let range = range.expect("a range");
        Mapping::new(SlotId(slot), AddressSpace::NORMAL, range, self.0).expect("whole pages")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { munmap(self.0.cast(), PAGES * PAGE) }.expect("it was mapped");
    }
}

/// A log that is on, over memories whose pages are all there.
fn log_of(memories: &[Memory]) -> Option<ProcessLog> {
    given(Need::PagemapScan, Capabilities::of_this_process().supports(Facility::Log))?;
    memories.iter().for_each(|memory| (0..PAGES).for_each(|page| memory.write(page)));
    let mappings = (0..).zip(memories).map(|(slot, memory)| memory.mapping(slot)).collect();
    // SAFETY: M: each test drops its memories after the log.
    let mut log = unsafe { ProcessLog::new(mappings) }.expect("a log");
    log.start().expect("the log starts");
    Some(log)
}

fn named(log: &mut ProcessLog, region: usize) -> Vec<u64> {
    let mut round = PageSet::new(&log.layout);
    log.collect(&mut round).expect("a round");
    round.regions()[region].pages().collect()
}

#[test]
fn an_error_half_way_owes_what_was_taken_and_all_of_the_region_that_failed() {
    let memories = [Memory::new(), Memory::new(), Memory::new()];
    let Some(mut log) = log_of(&memories) else { return };
    memories.iter().for_each(|memory| memory.write(7));
    // In the second region pages are no longer tracked, behind the log's back.
    let bytes = memories[1].mapping(1).bytes();
    let hole = bytes.start + 900 * PAGE as u64..bytes.start + 910 * PAGE as u64;
    calls::unregister(log.tracked.faults(), &hole).expect("it was registered");
    let mut round = PageSet::new(&log.layout);
    let error = log.collect(&mut round).expect_err("it is not tracked");
    assert!(
        matches!(error, ProcessError::Refused { call: Call::PagemapScan, slot: SlotId(1), .. }),
        "{error}"
    );
    // SAFETY: M, as above.
    unsafe { calls::register(log.tracked.faults(), &hole) }.expect("it was before");
    calls::write_protect(log.tracked.faults(), &hole, Protection::On).expect("and protected");
    round.clear();
    log.collect(&mut round).expect("a round");
    let counts = [0, 1, 2].map(|region| round.regions()[region].count());
    assert_eq!(counts, [1, PAGES as u64, 1]);
    assert_eq!([named(&mut log, 0), named(&mut log, 1)], [[0; 0]; 2]);
}

#[test]
fn a_start_that_fails_leaves_the_log_off_and_memory_free() {
    let memories = [Memory::new(), Memory::new()];
    let Some(first) = log_of(&memories[1..]) else { return };
    let mappings = vec![memories[0].mapping(0), memories[1].mapping(1)];
    // SAFETY: M, as above.
    let mut log = unsafe { ProcessLog::new(mappings) }.expect("a log");
    let error = log.start().expect_err("another log has the second");
    assert!(
        matches!(error, ProcessError::Refused { call: Call::Register, slot: SlotId(1), .. }),
        "{error}"
    );
    drop(first);
    assert_eq!(log.state, super::LogState::Off);
    log.start().expect("nobody else has it now");
    memories[1].write(3);
    assert_eq!(named(&mut log, 1), [3]);
}

#[test]
fn what_was_given_back_is_found_by_the_pass_that_older_kernels_need() {
    let memories = [Memory::new()];
    let Some(mut log) = log_of(&memories) else { return };
    // All that some page table is over, so that the kernel frees it.
    memories[0].give_back(2, PAGES - 4);
    memories[0].write(700);
    let bytes = memories[0].mapping(0).bytes();
    let mut found = [page_region { start: 0, end: 0, categories: 0 }; 8];
    let pagemap = log.tracked.pagemap();
    let scanned = calls::scan(pagemap, Pass::Vacant, &bytes, &mut found).expect("a scan");
    let page = |address: u64| (address - bytes.start) / PAGE as u64;
    let runs: Vec<_> =
        found[..scanned.filled].iter().map(|run| page(run.start)..page(run.end)).collect();
    assert_eq!(runs, [2..700, 701..PAGES as u64 - 2]);
    log.tracked.vacancies()[0] = Some(Vacancies::AreSought);
    assert_eq!(named(&mut log, 0), Vec::from_iter(2..PAGES as u64 - 2));
    assert_eq!(named(&mut log, 0), [0; 0]);
    memories[0].write(9);
    assert_eq!(named(&mut log, 0), [9]);
}

#[test]
fn the_kernels_own_way_and_that_pass_find_the_same() {
    for forced in [None, Some(Vacancies::AreSought)] {
        let memories = [Memory::new()];
        let Some(mut log) = log_of(&memories) else { return };
        let vacancies = &mut log.tracked.vacancies()[0];
        *vacancies = forced.or(*vacancies);
        memories[0].give_back(2, PAGES - 4);
        assert_eq!(named(&mut log, 0), Vec::from_iter(2..PAGES as u64 - 2), "{forced:?}");
        assert_eq!(named(&mut log, 0), [0; 0], "{forced:?}");
    }
}

/// Memory that a log over all of `memories` cannot unregister any more, until this is dropped: a file
/// lies over it.
struct Covered<'a>(&'a Memory);

impl<'a> Covered<'a> {
    fn new(memory: &'a Memory) -> Self {
        let file = std::fs::File::open("/proc/self/exe").expect("this program");
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: over a mapping of ours, whose bytes nobody has a reference to.
        unsafe { mmap(memory.0.cast(), PAGES * PAGE, ProtFlags::READ, flags, file, 0) }
            .expect("mapped over");
        Self(memory)
    }
}

impl Drop for Covered<'_> {
    fn drop(&mut self) {
        let (flags, access) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        let at = self.0.0.cast();
        // SAFETY: as in `new`.
        unsafe { mmap_anonymous(at, PAGES * PAGE, access, flags | MapFlags::FIXED) }
            .expect("mapped over");
    }
}

fn is_about_the_second(stopped: Result<(), ProcessError>) -> bool {
    let error = stopped.expect_err("it cannot be unregistered");
    matches!(error, ProcessError::Refused { call: Call::Unregister, slot: SlotId(1), .. })
}

#[test]
fn a_stop_that_fails_for_a_region_frees_the_others_and_the_next_one_frees_it() {
    let memories = [Memory::new(), Memory::new(), Memory::new()];
    let Some(mut log) = log_of(&memories) else { return };
    let covered = Covered::new(&memories[1]);
    assert!(is_about_the_second(log.stop()));
    // Memory that is still registered with one userfaultfd could not be with another.
    let mut first = log_of(&memories[..1]).expect("as before");
    let mut last = log_of(&memories[2..]).expect("as before");
    assert_eq!([named(&mut first, 0), named(&mut last, 0)], [[0; 0]; 2]);
    drop(covered);
    log.stop().expect("it stops");
    assert_eq!(log.state, super::LogState::Off);
}

#[test]
fn a_start_anew_that_cannot_stop_leaves_the_log_off() {
    let memories = [Memory::new(), Memory::new(), Memory::new()];
    let Some(mut log) = log_of(&memories) else { return };
    let covered = Covered::new(&memories[1]);
    assert!(is_about_the_second(log.start()));
    let off = log.collect(&mut PageSet::new(&log.layout.clone())).expect_err("it is off");
    assert!(matches!(off, ProcessError::Misuse(Misuse::Off)), "{off}");
    drop(covered);
    log.start().expect("it starts");
    memories[1].write(9);
    assert_eq!(named(&mut log, 1), [9]);
}
