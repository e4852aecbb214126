//! The log of a running guest, in each way that the kernel has.

use crate::{presence, until_more, until_passes};
use vellum_kvm::{RingSize, Way};
use vellum_memory::guest::{PAGE_BYTES, Page, read_page};
use vellum_memory::{DirtySource, Gfn, PageSet};
use vellum_vmm::{Config, Guest, GuestLog, Machine, RAM};

/// What was delivered of a guest's memory, page by page.
struct Copy {
    pages: Vec<Vec<Page>>,
}

impl Copy {
    fn of(machine: &Machine) -> Self {
        let regions = machine.layout().regions().iter();
        let pages = regions.map(|region| {
            let pages = 0..region.range.pages();
            pages.map(|page| read(machine, region.range.first(), page)).collect()
        });
        Self { pages: pages.collect() }
    }

    fn deliver(&mut self, round: &PageSet, machine: &Machine) {
        for (index, region) in machine.layout().regions().iter().enumerate() {
            for page in round.regions()[index].pages() {
                let at = usize::try_from(page).expect("a place");
                self.pages[index][at] = read(machine, region.range.first(), page);
            }
        }
    }
}

fn read(machine: &Machine, first: Gfn, page: u64) -> Page {
    let mut bytes = [0; PAGE_BYTES];
    let gfn = Gfn::new(first.get() + page);
    read_page(machine.memory(), gfn, &mut bytes).expect("in memory");
    bytes
}

fn take(log: &mut GuestLog, round: &mut PageSet) {
    round.clear();
    log.collect(round).expect("a collection");
    for (index, region) in log.layout().regions().to_vec().iter().enumerate() {
        log.protect(index, region.range, round).expect("a protection");
    }
}

/// The copy of a guest that ran for some rounds, against its memory.
fn delivered(way: Way, guest: Guest) {
    let ring = RingSize::new(1024).expect("a size");
    let config = Config { way, ring, ..Config::new(16 << 20, 2) };
    let Some((machine, mut log)) = presence::machine(&config, &guest.program()) else { return };
    log.start().expect("the log starts");
    let mut copy = Copy::of(&machine);
    let mut round = PageSet::new(machine.layout());
    let mut pages = 0;
    for _ in 0..9 {
        machine.resume();
        until_more(&machine, 3);
        take(&mut log, &mut round);
        copy.deliver(&round, &machine);
        pages += round.regions()[RAM].count();
    }
    machine.pause();
    take(&mut log, &mut round);
    copy.deliver(&round, &machine);
    assert!(copy.pages == Copy::of(&machine).pages, "{way}, {guest}");
    assert!(pages >= 200, "{way}, {guest}: it has written {pages} pages");
    take(&mut log, &mut round);
    assert!(round.is_empty(), "{way}, {guest}: it stands");
}

#[test]
fn what_a_running_guest_writes_is_in_the_log_of_every_way() {
    for way in Way::ALL {
        for guest in [Guest::Selfcheck, Guest::Sequential, Guest::Random] {
            delivered(way, guest);
        }
    }
}

#[test]
fn a_vcpu_with_a_full_ring_waits_for_nobody_but_its_reaper() {
    let ring = RingSize::new(1024).expect("a size");
    let config = Config { way: Way::Ring, ring, ..Config::new(16 << 20, 2) };
    let guest = Guest::Sequential.program();
    let Some((machine, mut log)) = presence::machine(&config, &guest) else { return };
    log.start().expect("the log starts");
    machine.resume();
    // A pass writes 1,024 pages a vCPU, which no ring of this size has room for; nobody collects.
    until_passes(&machine, 10);
    machine.pause();
    let mut round = PageSet::new(machine.layout());
    take(&mut log, &mut round);
    assert!(round.regions()[RAM].count() >= 2048, "{} pages", round.count());
}

#[test]
fn a_log_outlives_its_machine() {
    let Some((machine, mut log)) =
        presence::machine(&Config::new(16 << 20, 1), &Guest::Sequential.program())
    else {
        return;
    };
    log.start().expect("the log starts");
    machine.resume();
    until_passes(&machine, 2);
    let mut round = PageSet::new(machine.layout());
    drop(machine);
    take(&mut log, &mut round);
    assert!(round.regions()[RAM].count() >= 2048);
    log.stop().expect("it stops");
}
