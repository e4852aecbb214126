//! Exceptions: nothing here expects one, so each is reported and ends the run. Only a non-maskable
//! interrupt is what a CPU sends to another.

use super::registers::cr2;
use crate::{Verdict, console, exit};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

global_asm!(include_str!("vectors.s"), report = sym report);

unsafe extern "C" {
    static exception_stubs: u8;
    static kicked: u8;
}

const EXCEPTIONS: usize = 32;
const STUB_BYTES: u64 = 16;
const CODE_SELECTOR: u64 = 0x08;
/// Present, interrupt gate: interrupts stay off.
const GATE: u64 = 0x8e;
const KICK: usize = 2;
const DOUBLE_FAULT: usize = 8;

/// Two words for each gate (AMD APM vol. 2, figure 4-24).
static GATES: [[AtomicU64; 2]; EXCEPTIONS] =
    [const { [AtomicU64::new(0), AtomicU64::new(0)] }; EXCEPTIONS];

/// What the stubs and the processor have pushed.
#[repr(C)]
struct Frame {
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Loads the table of exception gates on this CPU.
pub(super) fn load() {
    let first = (&raw const exception_stubs).addr() as u64;
    for (number, gate) in GATES.iter().enumerate() {
        let stub = match number {
            KICK => (&raw const kicked).addr() as u64,
            _ => first + number as u64 * STUB_BYTES,
        };
        gate[0].store(low_half(stub, stack(number)), Ordering::Relaxed);
        gate[1].store(stub >> 32, Ordering::Relaxed);
    }
    let mut pointer = [0_u8; 10];
    let last = u16::try_from(size_of_val(&GATES) - 1).expect("512 bytes");
    pointer[..2].copy_from_slice(&last.to_le_bytes());
    pointer[2..].copy_from_slice(&(GATES.as_ptr().addr() as u64).to_le_bytes());
    // SAFETY: the gates are static, and each leads to a stub that does not return, or, for a kick, back
    // to where it came from with every register as it was.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) }
}

/// A stack of its own, whatever the interrupted code's is: compiled code has a red zone. A kick may come
/// while an exception is reported.
const fn stack(number: usize) -> u64 {
    match number {
        DOUBLE_FAULT => 2,
        KICK => 3,
        _ => 1,
    }
}

const fn low_half(stub: u64, stack: u64) -> u64 {
    (stub & 0xffff) | CODE_SELECTOR << 16 | stack << 32 | GATE << 40 | (stub >> 16 & 0xffff) << 48
}

extern "C" fn report(frame: &Frame) -> ! {
    let Frame { vector, code, rip, rsp, cs, ss, rflags } = frame;
    console::print_last(format_args!(
        "failed: exception {vector} ({}) at {rip:#x}, code {code:#x}, address {:#x}, \
         rsp {rsp:#x} rflags {rflags:#x} cs {cs:#x} ss {ss:#x}",
        name(*vector),
        cr2()
    ));
    exit(Verdict::Failed)
}

fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid task state",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD",
        _ => "reserved",
    }
}
