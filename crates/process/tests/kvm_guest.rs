//! A guest on `/dev/kvm` stores to memory of this process: one log has its vCPUs and its monitor.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use vellum_memory::guest::{Page, read_page, write_page};
use vellum_memory::{AddressSpace, DirtySource, Gfn, PAGE_SIZE, PageSet};
use vellum_presence::{Need, given};
use vellum_process::{Capabilities, Facility, ProcessLog};
use vellum_vmm::{Backing, Config, Guest, Machine, MachineError, Status};
use vm_memory::GuestMemoryMmap;

const BYTES: u64 = 16 << 20;
/// So many pages are in rounds before it is paused: that the guest ran is not a matter of time.
const MANY: u64 = 4 * BYTES / PAGE_SIZE;

/// A guest that stores to pages at random, on two vCPUs, or the reason why there is none.
fn machine(backing: Backing) -> Option<Machine> {
    given(Need::PagemapScan, Capabilities::of_this_process().supports(Facility::Log))?;
    let config = Config { backing, ..Config::new(BYTES, 2) };
    match Machine::new(&config, &Guest::Random.program()) {
        Err(MachineError::Open(reason)) => given(Need::Kvm, Err(reason)),
        made => given(Need::Kvm, Ok::<_, MachineError>(made.expect("a machine").0)),
    }
}

/// The frame numbers of `pages`.
fn frames(pages: &PageSet) -> impl Iterator<Item = Gfn> + '_ {
    pages.regions().iter().flat_map(|set| {
        let first = set.region().range.first().get();
        set.pages().map(move |page| Gfn::new(first + page))
    })
}

fn page(memory: &GuestMemoryMmap, gfn: Gfn) -> Page {
    let mut page = [0; 4096];
    read_page(memory, gfn, &mut page).expect("in memory");
    page
}

fn deliver(pages: &PageSet, from: &GuestMemoryMmap, to: &GuestMemoryMmap) {
    frames(pages).for_each(|gfn| write_page(to, gfn, &page(from, gfn)).expect("in memory"));
}

/// Whether one of `pages` is other here than there.
fn differs(pages: &PageSet, here: &GuestMemoryMmap, there: &GuestMemoryMmap) -> bool {
    frames(pages).any(|gfn| page(here, gfn) != page(there, gfn))
}

#[test]
fn a_vcpus_stores_are_in_the_log_of_this_process() {
    for backing in [Backing::Small, Backing::Transparent] {
        let Some(machine) = machine(backing) else { return };
        let memory = machine.memory();
        let mut log = ProcessLog::of_guest(memory, AddressSpace::NORMAL).expect("a log");
        let copy = copy_of(&log);
        log.start().expect("the log starts");
        let all = PageSet::full(log.layout());
        deliver(&all, memory, &copy);
        machine.resume();
        let mut round = PageSet::new(log.layout());
        let mut named = 0;
        while named < MANY {
            round.clear();
            log.collect(&mut round).expect("a round");
            deliver(&round, memory, &copy);
            named += round.count();
            runs(&machine);
        }
        // Once more without a delivery, so that something is left for the last round.
        while !differs(&all, memory, &copy) {
            runs(&machine);
            std::thread::yield_now();
        }
        machine.pause();
        assert!(differs(&all, memory, &copy), "{backing:?}: without the last round pages are lost");
        round.clear();
        log.collect(&mut round).expect("the last round");
        deliver(&round, memory, &copy);
        assert!(!differs(&all, memory, &copy), "{backing:?}: and with it none");
        round.clear();
        log.collect(&mut round).expect("one more");
        assert_eq!(round.count(), 0, "{backing:?}: it stands");
    }
}

/// A guest that has stopped would be waited for in vain.
fn runs(machine: &Machine) {
    let status = machine.status();
    assert!(matches!(status, Status::Running), "{status:?}");
}

/// Memory of the same regions.
fn copy_of(log: &ProcessLog) -> GuestMemoryMmap {
    let regions = log.layout().regions().iter().map(|region| {
        let bytes = usize::try_from(region.range.pages() * PAGE_SIZE).expect("a size");
        (vm_memory::GuestAddress(region.range.first().gpa().get()), bytes)
    });
    GuestMemoryMmap::from_ranges(&regions.collect::<Vec<_>>()).expect("memory")
}
