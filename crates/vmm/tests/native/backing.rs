//! What the host has behind RAM, by its own account.

use crate::{presence, until_passes};
use std::fs::read_to_string;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vellum_memory::guest::GuestAddress;
use vellum_vmm::{Backing, Config, Guest, Machine, MachineError, MemoryError, RAM_BASE};
use vm_memory::GuestMemoryBackend;

/// What `/proc/self/smaps` says of the mapping that RAM begins in.
struct Mapping(String);

impl Mapping {
    fn of(machine: &Machine) -> Self {
        let base = GuestAddress(RAM_BASE.gpa().get());
        let host = machine.memory().get_host_address(base).expect("RAM").addr();
        let smaps = read_to_string("/proc/self/smaps").expect("the kernel says it");
        let mut lines = smaps.lines().skip_while(|line| !begins(line, host));
        let heading = lines.next().expect("the mapping is there");
        let rest = lines.take_while(|line| range(line).is_none());
        Self(rest.fold(heading.to_owned(), |all, line| all + "\n" + line))
    }

    /// A number of kB.
    fn kilobytes(&self, name: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse().ok()).expect("a number of kB")
    }

    fn has_flag(&self, flag: &str) -> bool {
        let flags = self.0.lines().find_map(|line| line.strip_prefix("VmFlags:"));
        flags.expect("flags").split_whitespace().any(|found| found == flag)
    }
}

/// The addresses that a heading names.
fn range(line: &str) -> Option<(usize, usize)> {
    let (first, end) = line.split_whitespace().next()?.split_once('-')?;
    let hex = |text| usize::from_str_radix(text, 16).ok();
    Some((hex(first)?, hex(end)?))
}

fn begins(line: &str, host: usize) -> bool {
    range(line).is_some_and(|(first, end)| (first..end).contains(&host))
}

/// Held by who takes pages of the pool, so that each finds what the pool has.
static POOL: Mutex<()> = Mutex::new(());

fn pool() -> MutexGuard<'static, ()> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine that has written all of its memory but the reserved pages.
fn written(backing: Backing) -> Option<Machine> {
    let config = Config { backing, word: u64::MAX, ..Config::new(16 << 20, 2) };
    let (machine, _) = presence::machine(&config, &Guest::Sequential.program())?;
    machine.resume();
    until_passes(&machine, 2);
    machine.pause();
    Some(machine)
}

#[test]
fn every_guest_runs_on_every_backing() {
    let _pool = pool();
    for backing in Backing::ALL {
        for guest in Guest::ALL {
            let config = Config { backing, ..Config::new(8 << 20, 2) };
            if let Some((machine, _log)) = presence::machine(&config, &guest.program()) {
                machine.resume();
                until_passes(&machine, 3);
            }
        }
    }
}

#[test]
fn small_pages_are_small() {
    let Some(machine) = written(Backing::Small) else { return };
    let mapping = Mapping::of(&machine);
    assert!(mapping.kilobytes("Rss") >= 15 << 10, "{}", mapping.0);
    assert_eq!(mapping.kilobytes("AnonHugePages"), 0, "{}", mapping.0);
    assert_eq!(mapping.kilobytes("KernelPageSize"), 4);
    assert!(mapping.has_flag("nh"), "{}", mapping.0);
}

#[test]
fn transparent_pages_are_huge_where_the_host_makes_them() {
    let Some(machine) = written(Backing::Transparent) else { return };
    let mapping = Mapping::of(&machine);
    assert!(mapping.has_flag("hg"), "{}", mapping.0);
    let base = GuestAddress(RAM_BASE.gpa().get());
    let host = machine.memory().get_host_address(base).expect("RAM").addr();
    assert!(host.is_multiple_of(2 << 20), "{host:#x}");
    let switch = read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if switch.is_ok_and(|switch| !switch.contains("[never]")) {
        // The host may decline any of the eight, not all of them.
        assert!(mapping.kilobytes("AnonHugePages") >= 2 << 10, "{}", mapping.0);
    }
}

#[test]
fn huge_pages_are_of_the_pool() {
    let _pool = pool();
    let Some(machine) = written(Backing::Huge) else { return };
    let mapping = Mapping::of(&machine);
    assert_eq!(mapping.kilobytes("KernelPageSize"), 2048, "{}", mapping.0);
    assert_eq!(mapping.kilobytes("Private_Hugetlb"), 16 << 10, "{}", mapping.0);
    assert!(mapping.has_flag("ht"), "{}", mapping.0);
}

#[test]
fn a_pool_that_has_too_little_is_named_with_the_way_out() {
    // More than there is anywhere: 256 GiB.
    let config = Config { backing: Backing::Huge, ..Config::new(256 << 30, 1) };
    if presence::vacant(&Config::new(8 << 20, 1)).is_none() {
        return;
    }
    let refused = Machine::vacant(&config).map(drop).expect_err("too much");
    let pool = matches!(refused, MachineError::Memory(MemoryError::Pool { pages: 131_072, .. }));
    assert!(pool, "{refused:?}");
    assert!(refused.to_string().contains("/proc/sys/vm/nr_hugepages"), "{refused}");
}

#[test]
fn memory_of_huge_pages_comes_whole() {
    if presence::vacant(&Config::new(8 << 20, 1)).is_none() {
        return;
    }
    let config = Config { backing: Backing::Huge, ..Config::new(9 << 20, 1) };
    let refused = Machine::vacant(&config).map(drop).expect_err("half a page");
    assert!(matches!(refused, MachineError::Memory(MemoryError::NotWhole(_))), "{refused:?}");
}

#[test]
fn a_machine_of_no_size_is_refused() {
    if presence::vacant(&Config::new(8 << 20, 1)).is_none() {
        return;
    }
    for memory in [0, (8 << 20) - 1, (508 << 30) + 1, u64::MAX] {
        let refused = Machine::vacant(&Config::new(memory, 1)).map(drop).expect_err("no size");
        assert!(matches!(refused, MachineError::Memory(MemoryError::Size(_))), "{refused:?}");
    }
    for vcpus in [0, 65, usize::MAX] {
        let refused =
            Machine::vacant(&Config::new(8 << 20, vcpus)).map(drop).expect_err("no vCPUs");
        assert!(matches!(refused, MachineError::Vcpus(_)), "{refused:?}");
    }
}
