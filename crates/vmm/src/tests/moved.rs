//! A guest that goes on elsewhere.

use super::{presence, until_ended, until_more, until_passes};
use crate::state::{Part, SavedVcpu, content};
use crate::{
    Config, End, Guest, Machine, MachineState, Program, RestoreError, SaveError, Status, Why,
    passes_to_recheck_all,
};
use kvm_bindings::{kvm_regs, kvm_sregs};
use std::sync::{Arc, Mutex};
use vellum_memory::guest::{PAGE_BYTES, read_page, write_page};
use vellum_memory::{Gfn, Layout};

const MEMORY: u64 = 16 << 20;

fn config(vcpus: usize) -> Config {
    Config::new(MEMORY, vcpus)
}

fn gfns(layout: &Layout) -> impl Iterator<Item = Gfn> {
    let ranges = layout.regions().iter().map(|region| region.range);
    ranges.flat_map(|range| (range.first().get()..range.end().get()).map(Gfn::new))
}

fn copy(from: &Machine, to: &Machine) {
    let mut page = [0; PAGE_BYTES];
    for gfn in gfns(from.layout()) {
        read_page(from.memory(), gfn, &mut page).expect("in memory");
        write_page(to.memory(), gfn, &page).expect("in memory");
    }
}

/// Selfcheck after some passes, standing.
pub(super) fn source(vcpus: usize) -> Option<Machine> {
    let (machine, _) = presence::machine(&config(vcpus), &Guest::Selfcheck.program())?;
    machine.resume();
    until_passes(&machine, 20);
    machine.pause();
    Some(machine)
}

fn destination(vcpus: usize) -> Machine {
    Machine::vacant(&config(vcpus)).expect("where there was one, there is another").0
}

/// A machine that goes on with the memory of `from` and this state, by way of its bytes.
pub(super) fn moved(from: &Machine, state: &MachineState) -> Machine {
    let machine = destination(state.vcpus());
    copy(from, &machine);
    let state = MachineState::from_bytes(&state.to_bytes()).expect("a state");
    machine.restore(&state).expect("KVM takes it");
    machine
}

#[test]
fn selfcheck_goes_on_elsewhere_and_finds_all_of_its_memory_right() {
    let Some(mut machine) = source(3) else { return };
    for _ in 0..3 {
        let state = machine.save().expect("a state");
        let next = moved(&machine, &state);
        assert_eq!(next.passes(), machine.passes());
        drop(machine);
        next.resume();
        until_more(&next, passes_to_recheck_all(MEMORY, 3));
        next.pause();
        machine = next;
    }
}

/// How Selfcheck ends that goes on with a state that was changed.
fn broken(change: impl Fn(&mut MachineState)) -> Option<Status> {
    let machine = source(1)?;
    let mut state = machine.save().expect("a state");
    change(&mut state);
    let machine = moved(&machine, &state);
    machine.resume();
    Some(until_ended(&machine))
}

#[test]
fn a_state_without_sse_registers_is_found_out_by_the_guest() {
    let fresh = |state: &mut MachineState| {
        let vacant = destination(1).save().expect("a state");
        state.vcpus[0].xsave.clone_from(&vacant.vcpus[0].xsave);
    };
    let Some(status) = broken(fresh) else { return };
    assert!(matches!(status, Status::ShutDown(End::Failed)), "{status:?}");
}

#[test]
fn the_upper_half_of_one_sse_register_is_enough_to_be_found_out() {
    // XMM0 is at byte 160 of the area, and its upper half has the complement of the count.
    let Some(status) = broken(|state| state.vcpus[0].xsave[168] ^= 1) else { return };
    assert!(matches!(status, Status::ShutDown(End::Failed)), "{status:?}");
}

#[test]
fn a_state_without_general_registers_ends_in_a_fault() {
    let Some(status) = broken(|state| state.vcpus[0].regs = fresh_registers()) else { return };
    assert!(matches!(&status, Status::Failed(failure) if matches!(failure.why, Why::ShutDown)));
}

/// None of the guest's, and level 3's flags.
fn fresh_registers() -> kvm_regs {
    kvm_regs { rflags: 0x3202, ..Default::default() }
}

#[test]
fn a_state_without_system_registers_ends_at_once() {
    let fresh = |state: &mut MachineState| {
        state.vcpus[0].sregs = destination(1).save().expect("a state").vcpus[0].sregs;
    };
    let Some(status) = broken(fresh) else { return };
    assert!(matches!(status, Status::Failed(_)), "{status:?}");
}

/// Prints one byte after another, each by an instruction that KVM has to end: next: mov al, dl;
/// out 0x11, al; inc edx; jmp next
const COUNTING: [u8; 8] = [0x88, 0xd0, 0xe6, 0x11, 0xff, 0xc2, 0xeb, 0xf8];

fn listen(machine: &Machine, heard: &Arc<Mutex<Vec<u8>>>) {
    let sink = Arc::clone(heard);
    machine.set_console(Box::new(move |bytes: &[u8]| {
        sink.lock().expect("nobody panics").extend_from_slice(bytes);
    }));
}

#[test]
fn no_message_is_said_twice_or_lost_however_often_a_guest_moves() {
    let program = Program::new(&COUNTING).expect("a short program");
    let Some((mut machine, _)) = presence::machine(&config(1), &program) else { return };
    let heard = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..40 {
        listen(&machine, &heard);
        let before = heard.lock().expect("nobody panics").len();
        machine.resume();
        super::wait(&machine, |_| machine.exits()[0] > 100);
        machine.pause();
        assert!(heard.lock().expect("nobody panics").len() > before);
        let state = machine.save().expect("a state");
        machine = moved(&machine, &state);
    }
    let heard = heard.lock().expect("nobody panics");
    let expected = (0..=u8::MAX).cycle().take(heard.len());
    assert!(heard.iter().copied().eq(expected), "a byte came twice, or not at all");
}

/// What moves on by itself: the time-stamp counter, and clocks that follow it.
const CLOCKS: [u32; 6] = [0x10, 0x3b, 0xe7, 0xe8, 0x4000_0020, 0x4000_0010];

pub(super) fn still(mut state: MachineState) -> MachineState {
    for vcpu in &mut state.vcpus {
        vcpu.msrs.retain(|entry| !CLOCKS.contains(&entry.index));
    }
    state
}

/// What the guest itself leaves as a new machine has it.
fn stir(number: u64, vcpu: &mut SavedVcpu) {
    vcpu.regs.rflags |= 1;
    vcpu.debug.db = [0x1000 * number, 0x2000, 0x3000, 0x4000];
    set_msr(vcpu, 0xc000_0081, 0x1234_5678_0000_0000 + number);
    set_msr(vcpu, 0x277, 0x0007_0406_0007_0406);
    // x87 and SSE, where a new one has x87 alone.
    vcpu.xcrs.xcrs[0].value = 3;
    vcpu.events.nmi.masked = 1;
    let brand = vcpu.cpuid.iter_mut().find(|entry| entry.function == 0x8000_0002);
    brand.expect("a processor has a name").eax = u32::from_le_bytes(*b"Vell");
}

#[test]
fn every_part_is_elsewhere_what_it_was() {
    let Some(machine) = source(2) else { return };
    let fresh = destination(2).save().expect("a state");
    let mut state = machine.save().expect("a state");
    for (number, vcpu) in (1..).zip(&mut state.vcpus) {
        stir(number, vcpu);
    }
    // A part that was left out would be as in a new machine.
    let bare = |state: &MachineState, part| content(&state.vcpus[1], part).to_vec();
    for part in Part::ALL.into_iter().filter(|part| *part != Part::MpState) {
        assert_ne!(bare(&still(state.clone()), part), bare(&still(fresh.clone()), part), "{part}");
    }
    let saved = moved(&machine, &state).save().expect("a state");
    for part in Part::ALL {
        let (there, here) = (still(saved.clone()), still(state.clone()));
        assert_eq!(bare(&there, part), bare(&here, part), "{part}");
    }
    assert_eq!(still(saved), still(state));
}

fn set_msr(vcpu: &mut SavedVcpu, index: u32, value: u64) {
    let entry = vcpu.msrs.iter_mut().find(|entry| entry.index == index);
    entry.expect("KVM lists it").data = value;
}

#[test]
fn the_time_stamp_counter_does_not_go_back() {
    let Some(machine) = source(1) else { return };
    let tsc = |state: &MachineState| {
        let mut msrs = state.vcpus[0].msrs.iter();
        msrs.find(|entry| entry.index == 0x10).expect("KVM lists it").data
    };
    // A new machine's counter begins at 0, unless the host has it run with its own.
    let state = machine.save().expect("a state");
    let there = moved(&machine, &state).save().expect("a state");
    let gone = tsc(&there).checked_sub(tsc(&state)).expect("it does not go back");
    // Minutes of any processor. On the way it is put years ahead for a moment.
    assert!(gone < 1 << 40, "{gone} ticks have gone");
}

#[test]
fn a_guest_that_ended_has_ended_elsewhere_too() {
    let program = Program::new(&[0xb0, 3, 0xe6, 0x13, 0xeb, 0xfe]).expect("a short program");
    let Some((machine, _)) = presence::machine(&config(1), &program) else { return };
    machine.resume();
    until_ended(&machine);
    machine.pause();
    let there = moved(&machine, &machine.save().expect("a state"));
    assert!(matches!(there.status(), Status::ShutDown(End::Failed)));
}

#[test]
fn a_machine_that_runs_is_neither_saved_nor_restored() {
    let Some(machine) = source(1) else { return };
    let state = machine.save().expect("a state");
    machine.resume();
    assert!(matches!(machine.save(), Err(SaveError::NotPaused)));
    assert!(matches!(machine.restore(&state), Err(RestoreError::NotPaused)));
    until_more(&machine, 1);
}

#[test]
fn a_machine_that_failed_is_not_saved() {
    let ud2 = Program::new(&[0x0f, 0x0b]).expect("a short program");
    let Some((machine, _)) = presence::machine(&config(1), &ud2) else { return };
    machine.resume();
    until_ended(&machine);
    machine.pause();
    assert!(matches!(machine.save(), Err(SaveError::Failed(_))));
}

#[test]
fn a_state_of_other_vcpus_is_refused_and_nothing_has_changed() {
    let Some(machine) = source(2) else { return };
    let before = still(machine.save().expect("a state"));
    let other = destination(1).save().expect("a state");
    let refused = machine.restore(&other);
    assert!(matches!(refused, Err(RestoreError::Vcpus { state: 1, machine: 2 })), "{refused:?}");
    assert_eq!(still(machine.save().expect("a state")), before);
}

/// A state that KVM does not take is refused by name, and the machine has failed until it is given another.
fn refused(change: impl Fn(&mut MachineState), is_meant: impl Fn(&RestoreError) -> bool) {
    let Some(machine) = source(1) else { return };
    let state = machine.save().expect("a state");
    let mut changed = state.clone();
    change(&mut changed);
    let error = machine.restore(&changed).expect_err("KVM does not take it");
    assert!(is_meant(&error), "{error:?}");
    let status = machine.status();
    let half =
        matches!(&status, Status::Failed(failure) if matches!(failure.why, Why::HalfRestored));
    assert!(half, "{status:?}");
    assert!(matches!(machine.save(), Err(SaveError::Failed(_))));
    machine.restore(&state).expect("KVM takes what it gave");
    machine.resume();
    until_more(&machine, passes_to_recheck_all(MEMORY, 1));
}

#[test]
fn what_kvm_does_not_take_is_refused_by_name() {
    refused(
        |state| state.vcpus[0].sregs = kvm_sregs { cr4: 1 << 40, ..state.vcpus[0].sregs },
        |error| matches!(error, RestoreError::Refused { part: Part::SystemRegisters, vcpu: 0, .. }),
    );
    refused(
        |state| state.vcpus[0].msrs[3].index = 0xdead_beef,
        |error| matches!(error, RestoreError::Msr { index: 0xdead_beef, vcpu: 0, .. }),
    );
    refused(
        |state| state.vcpus[0].xcrs.xcrs[0].value = 2,
        |error| matches!(error, RestoreError::Refused { part: Part::ExtendedControl, .. }),
    );
    refused(
        |state| state.vcpus[0].xsave.resize(60_000, 1),
        |error| matches!(error, RestoreError::Xsave { found: 60_000, vcpu: 0, .. }),
    );
    refused(
        |state| state.vcpus[0].mp_state.mp_state = 99,
        |error| matches!(error, RestoreError::Refused { part: Part::MpState, .. }),
    );
}
