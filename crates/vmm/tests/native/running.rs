//! Guests run, stand, and end.

use crate::{config, each_guest, presence, until_ended, until_more, until_passes};
use std::sync::{Arc, Mutex, PoisonError};
use vellum_vmm::{Config, End, Machine, Program, Status, Why};

fn program(code: &[u8]) -> Program {
    Program::new(code).expect("a short program")
}

/// A machine of one vCPU with this program, running.
fn alone(code: &[u8]) -> Option<Machine> {
    let (machine, _) = presence::machine(&Config::new(8 << 20, 1), &program(code))?;
    machine.resume();
    Some(machine)
}

#[test]
fn every_guest_reports_passes_and_stands_while_it_is_paused() {
    each_guest(|guest, machine| {
        assert!(matches!(machine.status(), Status::Paused));
        machine.resume();
        until_passes(&machine, 3);
        machine.pause();
        let (passes, exits) = (machine.passes(), machine.exits());
        assert!(matches!(machine.status(), Status::Paused));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!((machine.passes(), machine.exits()), (passes, exits), "{guest}");
        machine.resume();
        until_more(&machine, 3);
    });
}

#[test]
fn a_guest_that_never_leaves_by_itself_is_paused_as_often_as_one_likes() {
    // shl edx, 12; again: inc qword ptr [rdi + rdx]; jmp again
    let code = program(&[0xc1, 0xe2, 12, 0x48, 0xff, 0x04, 0x17, 0xeb, 0xfa]);
    let Some((machine, _log)) = presence::machine(&config(), &code) else { return };
    let counts = || [0, 1].map(|vcpu| crate::word(&machine, vcpu, 0));
    for turn in 0..3000 {
        let before = counts();
        machine.resume();
        // Most pauses come at about the time when the guest is entered, where a signal may be lost.
        if turn % 10 == 0 {
            crate::wait(&machine, |_| counts().iter().zip(before).all(|(now, then)| *now > then));
        } else {
            (0..turn * 37 % 4000).for_each(|_| std::hint::spin_loop());
        }
        machine.pause();
        let standing = counts();
        assert!(matches!(machine.status(), Status::Paused));
        assert_eq!(counts(), standing);
    }
}

#[test]
fn a_guest_says_by_itself_how_it_ended() {
    // mov al, code; out 0x13, al; stay: jmp stay
    for (code, end) in [(0, End::Finished), (1, End::Failed), (255, End::Failed)] {
        let code = [0xb0, code, 0xe6, 0x13, 0xeb, 0xfe];
        let Some((machine, _log)) = presence::machine(&config(), &program(&code)) else { return };
        machine.resume();
        let status = until_ended(&machine);
        assert!(matches!(status, Status::ShutDown(found) if found == end), "{status:?}");
        machine.pause();
        let exits = machine.exits();
        machine.resume();
        machine.pause();
        assert_eq!(machine.exits(), exits, "it does not run any more");
    }
}

#[test]
fn one_vcpu_that_ends_stops_those_that_never_leave_by_themselves() {
    let code = [
        0x85, 0xd2, 0x74, 0x05, // test edx, edx; jz wait
        0x48, 0xff, 0x07, 0xeb, 0xfb, // count: inc qword ptr [rdi]; jmp count
        0x48, 0x83, 0x3f, 0x00, 0x74, 0xfa, // wait: cmp qword ptr [rdi], 0; je wait
        0xb0, 0, 0xe6, 0x13, // mov al, 0; out 0x13, al
    ];
    let Some((machine, _log)) = presence::machine(&config(), &program(&code)) else { return };
    machine.resume();
    assert!(matches!(until_ended(&machine), Status::ShutDown(End::Finished)));
    // It stands when it has not counted for a while; one that runs counts without end.
    let (mut last, mut still) = (0, 0);
    crate::wait(&machine, |_| {
        let now = crate::word(&machine, 0, 0);
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still == 500
    });
}

/// Why a guest with this program failed, and what is said of it.
fn failure(code: &[u8], is_meant: impl Fn(&Why) -> bool) {
    let Some(machine) = alone(code) else { return };
    match until_ended(&machine) {
        Status::Failed(failure) => {
            assert!(is_meant(&failure.why), "{code:02x?}: {failure}");
            assert_eq!(failure.vcpu, 0);
            assert!(failure.to_string().starts_with("vCPU 0"), "{failure}");
        }
        other => panic!("{code:02x?}: {other:?}"),
    }
}

#[test]
fn a_fault_is_told_as_a_shutdown() {
    let shut_down = |why: &Why| matches!(why, Why::ShutDown);
    failure(&[0x0f, 0x0b], shut_down); // ud2
    failure(&[0xf4], shut_down); // hlt, which level 3 may not
    failure(&[0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0x70], shut_down); // mov rax, [0x70000000]: not mapped
    // A store to its own code: lea rax, [rip]; mov [rax], rax
    failure(&[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x48, 0x89, 0x00], shut_down);
}

#[test]
fn a_port_that_means_nothing_is_named() {
    failure(&[0xe6, 0x14], out(0x14, 1)); // out 0x14, al
    failure(&[0xe4, 0x11], |why| matches!(why, Why::In { port: 0x11, size: 1, count: 1 })); // in al, 0x11
}

fn out(to: u16, width: u8) -> impl Fn(&Why) -> bool {
    move |why| matches!(*why, Why::Out { port, size, count: 1.. } if (port, size) == (to, width))
}

#[test]
fn an_out_of_another_width_than_its_ports_is_named() {
    failure(&[0xe6, 0x10], out(0x10, 1)); // out 0x10, al: progress has four bytes
    failure(&[0x66, 0xe7, 0x10], out(0x10, 2)); // out 0x10, ax
    failure(&[0xe7, 0x13], out(0x13, 4)); // out 0x13, eax: the end has one byte
}

#[test]
fn as_many_bytes_as_a_message_has_are_none_if_an_instruction_writes_them_one_by_one() {
    // mov rsi, rdi; mov edx, 0x10; mov ecx, 4; rep outsb; stay: jmp stay
    let code = [0x48, 0x89, 0xfe, 0xba, 0x10, 0, 0, 0, 0xb9, 4, 0, 0, 0, 0xf3, 0x6e, 0xeb, 0xfe];
    failure(&code, out(0x10, 1));
}

#[test]
fn an_access_past_the_end_of_memory_is_named() {
    // mov rax, rsi; shl rax, 12; add rax, rdi; mov [rax], rax: with 9 MiB the last leaf reaches further.
    let code = [0x48, 0x89, 0xf0, 0x48, 0xc1, 0xe0, 12, 0x48, 0x01, 0xf8, 0x48, 0x89, 0x00];
    let config = Config::new(9 << 20, 1);
    let Some((machine, _log)) = presence::machine(&config, &program(&code)) else { return };
    machine.resume();
    match until_ended(&machine) {
        Status::Failed(failure) => {
            let address = (4 << 30) + (9 << 20);
            let named = matches!(failure.why, Why::NoMemory { address: found } if found == address);
            assert!(named, "{failure}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_starts_with_what_it_is_told() {
    // Each vCPU stores rdi, rsi, rdx, rcx, r8, r9 to its own page of RAM, and counts as having passed.
    let code = [
        0x48, 0x89, 0xd0, 0x48, 0xc1, 0xe0, 12, 0x48, 0x01,
        0xf8, // mov rax, rdx; shl; add rax, rdi
        0x48, 0x89, 0x38, 0x48, 0x89, 0x70, 8, 0x48, 0x89, 0x50, 16, 0x48, 0x89, 0x48, 24, //
        0x4c, 0x89, 0x40, 32, 0x4c, 0x89, 0x48, 40, 0xb8, 1, 0, 0, 0, 0xe7, 0x10, 0xeb, 0xfe,
    ];
    let config = Config { seed: 0x1234_5678_9abc, word: 77, ..config() };
    let Some((machine, _log)) = presence::machine(&config, &program(&code)) else { return };
    machine.resume();
    until_passes(&machine, 1);
    machine.pause();
    for vcpu in 0..2 {
        let found: Vec<u64> = (0..6).map(|word| crate::word(&machine, vcpu, word)).collect();
        assert_eq!(found, [4 << 30, 4096, vcpu, 2, 0x1234_5678_9abc, 77]);
    }
}

#[test]
fn the_console_has_whole_lines_of_each_vcpu() {
    // next: for "ab\n", with the number of the vCPU added to each letter: out; then again
    let code = [
        0xb0, b'a', 0x00, 0xd0, 0xe6, 0x11, // mov al, 'a'; add al, dl; out 0x11, al
        0xb0, b'A', 0x00, 0xd0, 0xe6, 0x11, // the same with 'A'
        0xb0, b'\n', 0xe6, 0x11, 0x41, 0xff, 0xc0, // mov al, '\n'; out; inc r8d
        0x44, 0x89, 0xc0, 0xe7, 0x10, 0xeb, 0xe6, // mov eax, r8d; out 0x10, eax; jmp next
    ];
    let Some((machine, _log)) = presence::machine(&config(), &program(&code)) else { return };
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    machine.set_console(Box::new(move |bytes: &[u8]| {
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.to_vec());
    }));
    machine.resume();
    until_passes(&machine, 50);
    drop(machine);
    let lines = lines.lock().expect("nobody panicked");
    let whole =
        lines.iter().filter(|line| line.as_slice() == b"aA\n" || line.as_slice() == b"bB\n");
    // Of each vCPU's last line the machine's end may have left a part.
    assert!(whole.count() >= lines.len() - 2, "{lines:?}");
    assert!(lines.len() >= 100);
}

#[test]
fn a_machine_that_is_dropped_ends_its_threads() {
    each_guest(|_, machine| {
        let held = Arc::new(());
        let sink = Arc::clone(&held);
        machine.set_console(Box::new(move |_: &[u8]| {
            let _ = &sink;
        }));
        machine.resume();
        until_passes(&machine, 1);
        drop(machine);
        // The threads have what the machine has, and the console is a part of it.
        assert_eq!(Arc::strong_count(&held), 1);
    });
}
