//! A boot sector: reads the image that follows it on the disk to 1 MiB, and enters it the way a
//! multiboot loader would, in 32-bit protected mode.
//!
//! No crate of the workspace: `cargo xtask hardware` compiles it with `rustc` alone, links it flat
//! by `boot.ld`, and fills in the last two numbers.
#![no_std]
#![no_main]

use core::arch::global_asm;

// The image is read in chunks of 64 sectors to a buffer below 1 MiB, where the BIOS can write, and
// copied up from there. Copying needs data segments that reach so far: they get their limit in
// protected mode and keep it when the processor leaves that again ("unreal mode"). A BIOS call may
// cost them the limit, so it is set for each chunk.
global_asm!(
    ".section .boot, \"ax\"",
    ".code16",
    ".globl boot",
    "boot:",
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov sp, offset boot",
    // Some BIOSes enter at 07c0:0000. A far jump, which the assembler has no words for.
    ".byte 0xea",
    ".short begin, 0",
    "begin:",
    "mov [drive], dl",
    // A20 by the fast gate, and not the reset beside it.
    "in al, 0x92",
    "or al, 2",
    "and al, 0xfe",
    "out 0x92, al",
    "chunk:",
    "mov si, offset packet",
    "mov dl, [drive]",
    "mov ah, 0x42",
    "int 0x13",
    "jc failed",
    "cli",
    "lgdt [table]",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    "mov bx, 0x10",
    "mov ds, bx",
    "mov es, bx",
    "and al, 0xfe",
    "mov cr0, eax",
    "xor bx, bx",
    "mov ds, bx",
    "mov es, bx",
    "mov esi, 0x10000",
    "mov edi, [up]",
    "mov ecx, 64 * 512 / 4",
    "cld",
    "rep movsd dword ptr es:[edi], dword ptr ds:[esi]",
    "mov [up], edi",
    "add dword ptr [from], 64",
    "sub dword ptr [chunks], 1",
    "jnz chunk",
    // There for good.
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    ".byte 0xea",
    ".short protected, 0x08",
    // The disk cannot be read: say so by staying, where the time-out finds it.
    "failed:",
    "hlt",
    "jmp failed",
    ".code32",
    "protected:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov ss, ax",
    // What a multiboot loader says of itself; it has nothing else to say.
    "mov eax, 0x2badb002",
    "xor ebx, ebx",
    "jmp dword ptr [entry]",
    ".balign 8",
    // Flat code and data.
    "segments:",
    ".quad 0",
    ".quad 0x00cf9a000000ffff",
    ".quad 0x00cf92000000ffff",
    "table:",
    ".short table - segments - 1",
    ".long segments",
    "drive: .byte 0x80",
    ".balign 4",
    "up: .long 0x100000",
    // What AH=42h is told: its own size, sectors, offset and segment of the buffer, first sector.
    "packet:",
    ".short 16, 64, 0, 0x1000",
    "from: .quad 1",
    ".section .parameters, \"a\"",
    "chunks: .long 0",
    "entry: .long 0",
    ".short 0xaa55",
    ".code64",
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
