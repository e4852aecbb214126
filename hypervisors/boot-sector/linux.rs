//! What the boot sector enters in front of a Linux kernel: moves the first files to where the kernel
//! leaves them alone, and enters it by its 32-bit protocol (Linux, Documentation/x86/boot.rst).
//!
//! No crate of the workspace: `cargo xtask hardware` compiles it with `rustc` alone, links it flat
//! by `linux.ld`, and fills in the last four numbers. What the kernel is told of lies a page further.
#![no_std]
#![no_main]

use core::arch::global_asm;

global_asm!(
    ".section .begin, \"ax\"",
    ".code32",
    ".globl begin",
    "begin:",
    // Multiboot 1, with addresses: of those, the boot sector's builder wants the entry.
    ".long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)",
    ".long begin, begin, 0, 0, enter",
    "enter:",
    "cli",
    "lgdt [table]",
    // A far jump, which the assembler has no words for.
    ".byte 0xea",
    ".long flat",
    ".short 0x10",
    "flat:",
    "mov ax, 0x18",
    "mov ds, ax",
    "mov es, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov ss, ax",
    "mov esi, [from]",
    "mov edi, [to]",
    "mov ecx, [words]",
    "cld",
    "rep movsd dword ptr es:[edi], dword ptr ds:[esi]",
    "mov esi, offset begin + 0x1000",
    "xor ebp, ebp",
    "xor edi, edi",
    "xor ebx, ebx",
    "jmp dword ptr [entry]",
    ".balign 8",
    // Flat code at 0x10 and data at 0x18, as the protocol has them.
    "segments:",
    ".quad 0, 0",
    ".quad 0x00cf9a000000ffff",
    ".quad 0x00cf92000000ffff",
    "table:",
    ".short table - segments - 1",
    ".long segments",
    ".section .parameters, \"a\"",
    "from: .long 0",
    "to: .long 0",
    "words: .long 0",
    "entry: .long 0",
    ".code64",
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
