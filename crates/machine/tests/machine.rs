//! Whole machines: they run guests, stop between instructions, and go on elsewhere.

use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use vellum_machine::board::PageSize;
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::elf::Image;
use vellum_machine::guests::Builtin;
use vellum_machine::guests::assembler::Assembler;
use vellum_machine::guests::image::elf;
use vellum_machine::machine::{
    ConsoleSink, Machine, MachineConfig, MachineError, MachineState, MachineStateError,
    SnapshotError, Status,
};
use vellum_machine::sbi::ShutdownReason;
use vellum_machine::vcpu::{Exit, Reg};
use vellum_machine::walker::{AccessFlags, WalkedFormat};
use vellum_memory::guest::{PAGE_BYTES, read_page, write_page};
use vellum_pte::{Ept, Gpa, Npt, Stage2};

const BASE: u64 = 0x8000_0000;
const MEMORY: u64 = 16 << 20;

/// A console that nobody reads.
fn mute() -> Box<dyn ConsoleSink> {
    Box::new(|_: &[u8]| {})
}

fn builtin(guest: Builtin) -> Image {
    Image::parse(&guest.elf().expect("it assembles")).expect("a good image")
}

/// An image whose words go to the start of RAM, where the entry is too.
fn image(program: Assembler) -> Image {
    let words = program.finish().expect("it assembles");
    Image::parse(&elf(Gpa::new(BASE), &words)).expect("a good image")
}

fn machine<F: WalkedFormat>(image: &Image, vcpus: usize) -> Machine<F> {
    Machine::new(&MachineConfig::new(MEMORY, vcpus), image, mute()).expect("the host can")
}

fn total(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.sum()
}

/// Waits for something that must come; a machine that stands still hangs the test.
fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::yield_now();
    }
}

fn wait_for_passes<F: WalkedFormat>(machine: &Machine<F>, passes: u64) {
    let before: Vec<u64> = machine.progress().collect();
    until(|| {
        assert_eq!(machine.status(), Status::Running);
        machine.progress().zip(&before).all(|(now, before)| now >= before + passes)
    });
}

fn wait_for_end<F: WalkedFormat>(machine: &Machine<F>) -> Status {
    until(|| machine.status() != Status::Running);
    machine.status()
}

fn copy_memory<F: WalkedFormat>(from: &Machine<F>, to: &Machine<F>) {
    let range = from.board().layout().regions()[0].range;
    let mut page = [0; PAGE_BYTES];
    for offset in 0..range.pages() {
        let gfn = range.first().checked_add(offset).expect("in range");
        read_page(from.board().memory(), gfn, &mut page).expect("RAM");
        write_page(to.board().memory(), gfn, &page).expect("RAM");
    }
}

fn begins_paused<F: WalkedFormat>() {
    let machine = machine::<F>(&builtin(Builtin::Selfcheck), 2);
    assert_eq!(machine.status(), Status::Paused);
    assert_eq!(total(machine.instructions()), 0);
    machine.resume();
    wait_for_passes(&machine, 1);
    assert!(total(machine.instructions()) > 0);
}

#[test]
fn a_machine_begins_paused_and_runs_when_told() {
    begins_paused::<Ept>();
    begins_paused::<Npt>();
    begins_paused::<Stage2>();
}

#[test]
fn a_paused_machine_stands_still_and_goes_on() {
    let machine = machine::<Npt>(&builtin(Builtin::Selfcheck), 3);
    machine.resume();
    for _ in 0..20 {
        wait_for_passes(&machine, 1);
        machine.pause();
        machine.pause();
        assert_eq!(machine.status(), Status::Paused);
        let before = machine.save().expect("paused");
        for _ in 0..200 {
            std::thread::yield_now();
        }
        assert_eq!(machine.save().expect("paused"), before);
        machine.resume();
    }
    wait_for_passes(&machine, 1);
}

fn moves_and_runs_on<F: WalkedFormat>() {
    let source = machine::<F>(&builtin(Builtin::Selfcheck), 4);
    source.resume();
    wait_for_passes(&source, 3);
    source.pause();
    let passes = total(source.progress());
    let bytes = source.save().expect("paused").to_bytes();
    let target = Machine::<F>::vacant(&MachineConfig::new(MEMORY, 4), mute()).expect("it can");
    copy_memory(&source, &target);
    target.restore(&MachineState::from_bytes(&bytes).expect("saved")).expect("the same shape");
    assert_eq!(target.save().expect("paused").to_bytes(), bytes);
    assert_eq!(total(target.progress()), passes);
    target.resume();
    wait_for_passes(&target, 5);
}

#[test]
fn a_saved_machine_runs_on_elsewhere_and_finds_its_memory_right() {
    moves_and_runs_on::<Ept>();
    moves_and_runs_on::<Npt>();
    moves_and_runs_on::<Stage2>();
}

fn runs_with<F: WalkedFormat>(pages: PageSize, flags: AccessFlags) {
    let config = MachineConfig { pages, flags, ..MachineConfig::new(MEMORY, 2) };
    let machine = Machine::<F>::new(&config, &builtin(Builtin::Selfcheck), mute());
    let machine = machine.expect("the host can");
    machine.resume();
    wait_for_passes(&machine, 2);
}

#[test]
fn guests_run_on_every_size_of_page_with_and_without_flags_by_hardware() {
    for pages in [PageSize::Small, PageSize::Huge2M, PageSize::Huge1G] {
        runs_with::<Npt>(pages, AccessFlags::ByHardware);
        for flags in [AccessFlags::ByHardware, AccessFlags::BySoftware] {
            runs_with::<Ept>(pages, flags);
            runs_with::<Stage2>(pages, flags);
        }
    }
}

/// The checks above can fail.
#[test]
fn a_guest_whose_page_was_changed_notices() {
    let machine = machine::<Ept>(&builtin(Builtin::Selfcheck), 1);
    machine.resume();
    wait_for_passes(&machine, 1);
    machine.pause();
    let range = machine.board().layout().regions()[0].range;
    for offset in range.pages() / 4..range.pages() / 2 {
        let gfn = range.first().checked_add(offset).expect("in range");
        write_page(machine.board().memory(), gfn, &[0; PAGE_BYTES]).expect("RAM");
    }
    machine.resume();
    assert_eq!(wait_for_end(&machine), Status::ShutDown(ShutdownReason::SystemFailure));
}

#[test]
fn more_harts_than_cores_all_make_progress() {
    let machine = machine::<Ept>(&builtin(Builtin::Sequential), 12);
    machine.resume();
    wait_for_passes(&machine, 2);
}

#[test]
fn idle_harts_sleep_and_can_be_stopped_at_once() {
    let machine = machine::<Ept>(&builtin(Builtin::Idle), 4);
    machine.resume();
    until(|| machine.instructions().all(|count| count > 50));
    machine.pause();
    assert!(machine.save().is_ok());
}

#[test]
fn the_console_gets_what_the_guest_prints_and_the_end_is_told() {
    let mut program = Assembler::new();
    for letter in b"hi" {
        program.li(Reg::A7, 1);
        program.li(Reg::A0, i64::from(*letter));
        program.ecall();
    }
    program.li(Reg::A7, 8);
    program.ecall();
    let printed = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&printed);
    let console = move |bytes: &[u8]| sink.lock().expect("whole").extend_from_slice(bytes);
    let config = MachineConfig::new(MEMORY, 1);
    let machine = Machine::<Ept>::new(&config, &image(program), Box::new(console)).expect("it can");
    machine.resume();
    assert_eq!(wait_for_end(&machine), Status::ShutDown(ShutdownReason::Finished));
    assert_eq!(*printed.lock().expect("whole"), b"hi");
    machine.pause();
    let state = machine.save().expect("a machine that was shut down can move");
    let target = Machine::<Ept>::vacant(&config, mute()).expect("it can");
    target.restore(&state).expect("the same shape");
    target.resume();
    assert_eq!(target.status(), Status::ShutDown(ShutdownReason::Finished));
}

#[test]
fn a_hart_that_cannot_go_on_is_named() {
    let mut program = Assembler::new();
    program.li(Reg::A0, 0x40);
    program.ld(Reg::A1, 8, Reg::A0);
    let machine = machine::<Npt>(&image(program), 1);
    machine.resume();
    let Status::Failed(failure) = wait_for_end(&machine) else { panic!("it read nothing") };
    assert_eq!(failure.exit, Exit::Fault(BusError::Unmapped(Gpa::new(0x48))));
    assert_eq!((failure.hart, failure.pc), (0, Gpa::new(BASE + 4)));
    assert_eq!(failure.to_string(), "hart 0 at 0x80000004: no memory at 0x48");
    machine.pause();
    assert_eq!(machine.save(), Err(SnapshotError::Failed(failure)));
}

#[test]
fn a_hart_without_memory_for_its_tables_waits_for_it() {
    let machine = machine::<Ept>(&builtin(Builtin::Sequential), 2);
    let frames = machine.board().embedder().frames();
    frames.set_limit(Some(frames.live() + 1));
    machine.resume();
    for _ in 0..1000 {
        std::thread::yield_now();
    }
    assert_eq!((machine.status(), total(machine.instructions())), (Status::Running, 0));
    frames.set_limit(None);
    wait_for_passes(&machine, 1);
}

#[test]
fn a_machine_of_another_shape_refuses_a_state() {
    let one = Machine::<Ept>::vacant(&MachineConfig::new(MEMORY, 1), mute()).expect("it can");
    let two = Machine::<Ept>::vacant(&MachineConfig::new(MEMORY, 2), mute()).expect("it can");
    let state = one.save().expect("paused");
    assert_eq!(two.restore(&state), Err(SnapshotError::Harts { state: 1, machine: 2 }));
    one.resume();
    assert_eq!(one.save(), Err(SnapshotError::NotPaused));
    assert_eq!(one.restore(&state), Err(SnapshotError::NotPaused));
}

#[test]
fn a_machine_that_cannot_be_built_says_why() {
    let error = |memory, vcpus| {
        Machine::<Ept>::vacant(&MachineConfig::new(memory, vcpus), mute()).err().expect("refused")
    };
    assert!(matches!(error(MEMORY, 0), MachineError::Harts(0)));
    assert!(matches!(error(u64::MAX, 1), MachineError::Memory(_) | MachineError::Board(_)));
    assert!(matches!(error(0, 1), MachineError::Board(_)));
}

#[test]
fn a_running_machine_can_be_dropped() {
    for _ in 0..10 {
        let machine = machine::<Ept>(&builtin(Builtin::Random), 4);
        machine.resume();
        until(|| total(machine.instructions()) > 0);
    }
}

#[test]
fn a_port_beside_the_harts_sees_what_they_write() {
    let mut program = Assembler::new();
    program.li(Reg::A0, BASE.cast_signed() + 0x10_0000);
    program.li(Reg::A1, 0x1234);
    program.sd(Reg::A1, 0, Reg::A0);
    program.li(Reg::A7, 8);
    program.ecall();
    let machine = machine::<Ept>(&image(program), 1);
    machine.resume();
    wait_for_end(&machine);
    let mut port = machine.board().port().expect("memory");
    assert_eq!(port.load(Gpa::new(BASE + 0x10_0000), Width::Double), Ok(0x1234));
}

fn some_state() -> Vec<u8> {
    let machine = Machine::<Ept>::vacant(&MachineConfig::new(MEMORY, 3), mute()).expect("it can");
    machine.save().expect("paused").to_bytes()
}

#[test]
fn a_state_cut_or_stretched_is_no_state() {
    let good = some_state();
    assert!(MachineState::from_bytes(&good).is_ok());
    for length in 0..good.len() {
        assert!(MachineState::from_bytes(&good[..length]).is_err(), "{length} bytes");
    }
    let long = [&good[..], &[0]].concat();
    assert!(matches!(MachineState::from_bytes(&long), Err(MachineStateError::Length { .. })));
}

#[test]
fn a_state_that_claims_countless_harts_allocates_nothing() {
    let mut bytes = some_state();
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(MachineState::from_bytes(&bytes), Err(MachineStateError::Harts(u64::MAX)));
}

proptest! {
    #[test]
    fn what_is_accepted_is_spelt_the_same_again(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = some_state();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(state) = MachineState::from_bytes(&bytes) {
            prop_assert_eq!(state.to_bytes(), bytes);
        }
    }
}
