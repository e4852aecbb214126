//! A round of the kernel's log allocates nothing: neither through a bitmap nor through rings.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use vellum_counting::{Counting, allocations_of};
use vellum_kvm::{Capabilities, Way, open};
use vellum_memory::{DirtySource, PageSet};
use vellum_presence::{Need, given};
use vellum_vmm::{Config, Guest, GuestLog, MINIMUM_MEMORY, Machine, Status};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A round, all of it, with pages that could not be delivered.
fn take(log: &mut GuestLog, round: &mut PageSet) {
    round.clear();
    log.collect(round).expect("the log is on");
    for index in 0..round.regions().len() {
        let range = round.regions()[index].region().range;
        log.protect(index, range, round).expect("the log is on");
    }
    log.owe(round);
}

/// Lets the guest go once more over its pages.
fn run_a_pass(machine: &Machine) {
    let before = machine.passes();
    machine.resume();
    while machine.passes() == before {
        assert!(matches!(machine.status(), Status::Running), "{:?}", machine.status());
        std::thread::yield_now();
    }
    machine.pause();
}

fn no_round_allocates(way: Way) {
    let config = Config { way, ..Config::new(MINIMUM_MEMORY, 1) };
    let (machine, mut log) = Machine::new(&config, &Guest::Sequential.program()).expect("a VM");
    log.start().expect("the log starts");
    let mut round = PageSet::new(log.layout());
    for _ in 0..3 {
        run_a_pass(&machine);
        assert_eq!(allocations_of(|| take(&mut log, &mut round)), 0, "{way}");
        assert!(round.count() > 100, "{way}");
    }
}

#[test]
fn a_round_of_the_kernels_log_allocates_nothing() {
    let Some(kvm) = given(Need::Kvm, open()) else { return };
    let capabilities = Capabilities::of(&kvm.create_vm().expect("KVM makes a VM"));
    for way in Way::ALL {
        if given(Need::KvmWay(way.name().to_owned()), capabilities.supports(way)).is_some() {
            no_round_allocates(way);
        }
    }
    assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(7)))), 2, "the count counts");
}
