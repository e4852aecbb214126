//! A guest that comes from a processor with other features.

use super::moved::{moved, source, still};
use super::until_more;
use crate::{CpuidWord, MachineState, Register, RestoreError};
use kvm_bindings::kvm_cpuid_entry2;

/// Bits of leaf 1's EDX that no processor has given a meaning.
const NOBODYS: u32 = 1 << 10 | 1 << 20;
/// That KVM's clock is stable, in the EAX of KVM's own features. Every host has it, and no host shows a
/// guest another answer there than KVM's.
const STABLE_CLOCK: u32 = 1 << 24;
const KVMS_FEATURES: u32 = 0x4000_0001;

fn leaf(state: &mut MachineState, vcpu: usize, number: u32) -> &mut kvm_cpuid_entry2 {
    let mut leaves = state.vcpus[vcpu].cpuid.iter_mut();
    leaves.find(|entry| entry.function == number).expect("every vCPU has it")
}

#[test]
fn a_feature_that_no_host_has_is_refused_by_name_and_nothing_has_changed() {
    let Some(machine) = source(2) else { return };
    let state = machine.save().expect("a state");
    let mut doctored = state.clone();
    leaf(&mut doctored, 1, 1).edx |= NOBODYS;
    let doctored = MachineState::from_bytes(&doctored.to_bytes()).expect("a state");
    let refused = machine.restore(&doctored).expect_err("no host has it");
    let place = CpuidWord { leaf: 1, subleaf: 0, register: Register::Edx };
    let is_named = matches!(
        refused,
        RestoreError::Features { vcpu: 1, word, bits: NOBODYS } if word == place
    );
    assert!(is_named, "{refused:?}");
    let said = refused.to_string();
    assert!(said.ends_with("vCPU 1 was given: bits 0x100400 of EDX in CPUID leaf 0x1, sub-leaf 0"));
    assert_eq!(still(machine.save().expect("it has not failed")), still(state));
    machine.resume();
    until_more(&machine, 1);
}

#[test]
fn a_guest_that_was_given_less_than_this_host_has_is_given_no_more() {
    let Some(machine) = source(1) else { return };
    let mut state = machine.save().expect("a state");
    assert_ne!(leaf(&mut state, 0, KVMS_FEATURES).eax & STABLE_CLOCK, 0);
    leaf(&mut state, 0, KVMS_FEATURES).eax &= !STABLE_CLOCK;
    let there = moved(&machine, &state);
    let mut found = there.save().expect("a state");
    assert_eq!(leaf(&mut found, 0, KVMS_FEATURES).eax & STABLE_CLOCK, 0);
    there.resume();
    until_more(&there, 1);
}
