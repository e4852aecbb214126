#![allow(unsafe_code)]

use super::ProcessLog;
use super::tracked::Vacancies;
use crate::calls::{self, Pass, Protection};
use crate::{Call, Capabilities, Facility, Mapping, ProcessError};
use linux_raw_sys::general::page_region;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ptr;
use vellum_memory::{AddressSpace, DirtySource, Gfn, GfnRange, PageSet, SlotId};
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
    assert_eq!(log.state, super::State::Off);
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
    log.tracked.vacancies()[0] = Vacancies::AreSought;
    assert_eq!(named(&mut log, 0), Vec::from_iter(2..PAGES as u64 - 2));
    assert_eq!(named(&mut log, 0), [0; 0]);
    memories[0].write(9);
    assert_eq!(named(&mut log, 0), [9]);
}

#[test]
fn a_kernel_that_finds_vacancies_by_itself_finds_the_same() {
    for vacancies in [Vacancies::AreFound, Vacancies::AreSought] {
        let memories = [Memory::new()];
        let Some(mut log) = log_of(&memories) else { return };
        if log.tracked.vacancies()[0] == Vacancies::AreSought && vacancies == Vacancies::AreFound {
            println!("this kernel's scan passes vacancies by");
            return;
        }
        log.tracked.vacancies()[0] = vacancies;
        memories[0].give_back(2, PAGES - 4);
        assert_eq!(named(&mut log, 0), Vec::from_iter(2..PAGES as u64 - 2), "{vacancies:?}");
        assert_eq!(named(&mut log, 0), [0; 0], "{vacancies:?}");
    }
}
