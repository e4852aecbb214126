//! Into the guest and back.
#![allow(unsafe_code)]

use crate::vmcb::{Field, Vmcb};
use core::arch::global_asm;
use x86_guest::Registers;

// The processor itself switches RAX, RSP, RIP, the flags, the control registers, the descriptor
// tables and CS, SS, DS, ES; FS, GS, TR and LDTR stay the host's, and the guest's program uses none
// of them. The global interrupt flag is clear before and after.
global_asm!(
    ".section .text.svm_enter, \"ax\"",
    ".globl svm_enter",
    "svm_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov rax, rsi",
    "mov rcx, [rdi + 8 * 1]",
    "mov rdx, [rdi + 8 * 2]",
    "mov rbx, [rdi + 8 * 3]",
    "mov rbp, [rdi + 8 * 5]",
    "mov rsi, [rdi + 8 * 6]",
    "mov r8, [rdi + 8 * 8]",
    "mov r9, [rdi + 8 * 9]",
    "mov r10, [rdi + 8 * 10]",
    "mov r11, [rdi + 8 * 11]",
    "mov r12, [rdi + 8 * 12]",
    "mov r13, [rdi + 8 * 13]",
    "mov r14, [rdi + 8 * 14]",
    "mov r15, [rdi + 8 * 15]",
    "mov rdi, [rdi + 8 * 7]",
    "vmrun rax",
    "xchg rdi, [rsp]",
    "mov [rdi + 8 * 1], rcx",
    "mov [rdi + 8 * 2], rdx",
    "mov [rdi + 8 * 3], rbx",
    "mov [rdi + 8 * 5], rbp",
    "mov [rdi + 8 * 6], rsi",
    "pop qword ptr [rdi + 8 * 7]",
    "mov [rdi + 8 * 8], r8",
    "mov [rdi + 8 * 9], r9",
    "mov [rdi + 8 * 10], r10",
    "mov [rdi + 8 * 11], r11",
    "mov [rdi + 8 * 12], r12",
    "mov [rdi + 8 * 13], r13",
    "mov [rdi + 8 * 14], r14",
    "mov [rdi + 8 * 15], r15",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn svm_enter(registers: *mut Registers, vmcb: *mut Vmcb);
}

const RAX: usize = 0;
const RSP: usize = 4;

/// Enters the guest with `registers`, and takes them back when it exits.
///
/// # Safety
/// The control block is complete, and its tables lead to guest memory only.
pub(crate) unsafe fn enter(registers: &mut Registers, vmcb: &mut Vmcb) {
    vmcb.set(Field::Rax, registers.0[RAX]);
    vmcb.set(Field::Rsp, registers.0[RSP]);
    // SAFETY: by the caller's promise; what the C convention preserves is preserved, and memory is
    // mapped one to one, so that the block's address is its physical one.
    unsafe { svm_enter(registers, vmcb) };
    registers.0[RAX] = vmcb.get(Field::Rax);
    registers.0[RSP] = vmcb.get(Field::Rsp);
}
