//! The program.
#![allow(unsafe_code)]

use core::arch::global_asm;

// rdi: where first; rsi: bytes from one to the next; rcx: how often; rax: what is stored, and what
// was loaded last; edx: 0 stores, anything else loads. The hypercall is put behind it.
global_asm!(
    ".section .rodata.guest_program, \"a\"",
    ".globl guest_program, guest_program_end",
    "guest_program:",
    "test edx, edx",
    "jnz 3f",
    "2:",
    "mov [rdi], rax",
    "add rdi, rsi",
    "dec rcx",
    "jnz 2b",
    "jmp guest_program_end",
    "3:",
    "mov rax, [rdi]",
    "add rdi, rsi",
    "dec rcx",
    "jnz 3b",
    "guest_program_end:",
);

unsafe extern "C" {
    static guest_program: u8;
    static guest_program_end: u8;
}

/// How the guest says that it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hypercall {
    /// Intel's.
    Vmcall,
    /// AMD's.
    Vmmcall,
}

impl Hypercall {
    pub(crate) const fn bytes(self) -> [u8; 3] {
        match self {
            Self::Vmcall => [0x0f, 0x01, 0xc1],
            Self::Vmmcall => [0x0f, 0x01, 0xd9],
        }
    }
}

/// Its instructions, but for the hypercall at the end. They run wherever they are put.
pub(crate) fn instructions() -> &'static [u8] {
    let first = &raw const guest_program;
    let length = (&raw const guest_program_end).addr() - first.addr();
    // SAFETY: the assembly above puts so many bytes there, and nobody writes them.
    unsafe { core::slice::from_raw_parts(first, length) }
}
