//! What a kernel brings instead of std and libc: entry, exit, memory.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The status of a process that panicked.
const PANICKED: i32 = 101;

// The stack is aligned at entry, as the x86-64 psABI asks; `call` keeps it so. The memory functions
// are those that the compiler calls by itself.
global_asm!(
    ".globl _start, memcpy, memmove, memset, memcmp, bcmp",
    "_start:",
    "xor ebp, ebp",
    "call {enter}",
    "ud2",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "memcmp:",
    "bcmp:",
    "xor eax, eax",
    "xor ecx, ecx",
    "3:",
    "cmp rcx, rdx",
    "je 4f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "je 3b",
    "4:",
    "ret",
    enter = sym enter,
);

extern "C" fn enter() -> ! {
    exit(crate::main())
}

fn exit(status: i32) -> ! {
    // SAFETY: exit_group(status) does not return and touches no memory of ours.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn)) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(PANICKED)
}

// The prebuilt `core` and `alloc` were built to unwind and name these; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(PANICKED)
}

const HEAP_BYTES: usize = 1 << 20;

#[repr(C, align(4096))]
struct Heap(UnsafeCell<[u8; HEAP_BYTES]>);

// SAFETY: `Bump` hands each byte out once.
unsafe impl Sync for Heap {}

static HEAP: Heap = Heap(UnsafeCell::new([0; HEAP_BYTES]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// Gives memory and never takes it back.
struct Bump;

// SAFETY: every call returns null or bytes of `HEAP` that no other call has returned, aligned as
// asked: alignments up to the heap's own.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let place = |used: usize| {
            let start = used.next_multiple_of(layout.align());
            (start, start + layout.size())
        };
        let fits = |used| Some(place(used).1).filter(|end| *end <= HEAP_BYTES);
        match USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            // SAFETY: `fits` keeps the end inside the heap.
            Ok(used) => unsafe { HEAP.0.get().cast::<u8>().add(place(used).0) },
            Err(_) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump;
