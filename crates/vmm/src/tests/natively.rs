//! Whether guests run natively, by the kernel's count of what it emulated.

use super::{presence, until_more, until_passes};
use crate::boot::Level;
use crate::{Config, Guest, Machine};

const MEMORY: u64 = 16 << 20;

/// Instructions that the kernel has emulated, and passes, between two moments of a guest at a level.
fn emulated(guest: Guest, level: Level) -> Option<(u64, u64)> {
    let config = Config::new(MEMORY, 2);
    presence::vacant(&config)?;
    let made = Machine::at_level(&config, &guest.program(), level);
    let (machine, _log) = made.expect("a machine");
    machine.resume();
    until_passes(&machine, 2);
    let count = || {
        machine.pause();
        let statistics = machine.statistics().expect("the kernel counts");
        let emulated = statistics.emulated_instructions().expect("it counts what it emulates");
        assert!(statistics.exits().expect("it counts exits") > 0);
        (emulated, machine.passes().iter().sum::<u64>())
    };
    let before = count();
    machine.resume();
    until_more(&machine, 20);
    let after = count();
    Some((after.0 - before.0, after.1 - before.1))
}

#[test]
fn the_kernel_emulates_no_more_of_a_guest_than_its_messages() {
    for guest in Guest::ALL {
        let Some((instructions, passes)) = emulated(guest, Level::Three) else { return };
        // A message is one `out`; an idle guest says twice a pass. The rest is for a few faults.
        assert!(instructions <= 2 * passes + 100, "{guest}: {instructions} in {passes} passes");
    }
}

/// Whether this host's processor has what runs level 0 natively.
fn has_virtualization() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

#[test]
fn at_level_0_a_host_without_vmx_and_svm_emulates_it_and_the_count_says_so() {
    let Some((instructions, passes)) = emulated(Guest::Sequential, Level::Zero) else { return };
    let is_emulated = instructions > 100 * passes;
    assert_eq!(is_emulated, !has_virtualization(), "{instructions} in {passes} passes");
}
