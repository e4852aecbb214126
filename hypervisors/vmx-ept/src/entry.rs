//! Into the guest and back.
#![allow(unsafe_code)]

use crate::fields::Field;
use core::arch::global_asm;
use x86_guest::Registers;

/// How the guest is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Entry {
    /// For the first time since its VMCS was cleared.
    Launch = 0,
    /// Again.
    Resume = 1,
}

/// The processor does not enter: the VMCS says why, in its instruction error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotEntered;

// The host's RSP and RIP are those at this point of each entry. Loads do not change flags, so the
// way of entry is tested first and taken last.
global_asm!(
    ".section .text.vmx_enter, \"ax\"",
    ".globl vmx_enter",
    "vmx_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov edx, {host_rsp}",
    "vmwrite rdx, rsp",
    "jbe 4f",
    "lea rax, [rip + 3f]",
    "mov edx, {host_rip}",
    "vmwrite rdx, rax",
    "jbe 4f",
    "test rsi, rsi",
    "mov rax, [rdi + 8 * 0]",
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
    "jnz 2f",
    "vmlaunch",
    "jmp 4f",
    "2:",
    "vmresume",
    "jmp 4f",
    // An exit.
    "3:",
    "xchg rdi, [rsp]",
    "mov [rdi + 8 * 0], rax",
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
    "xor eax, eax",
    "jmp 5f",
    // No entry.
    "4:",
    "pop rdi",
    "mov eax, 1",
    "5:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    host_rsp = const Field::HostRsp as u64,
    host_rip = const Field::HostRip as u64,
);

unsafe extern "C" {
    fn vmx_enter(registers: *mut Registers, entry: Entry) -> u64;
}

/// Enters the guest of the current VMCS with `registers`, and takes them back when it exits.
///
/// # Safety
/// The current VMCS is complete, and its tables lead to guest memory only.
pub(crate) unsafe fn enter(registers: &mut Registers, entry: Entry) -> Result<(), NotEntered> {
    // SAFETY: by the caller's promise; what the C convention preserves is preserved.
    let failed = unsafe { vmx_enter(registers, entry) };
    if failed == 0 { Ok(()) } else { Err(NotEntered) }
}
