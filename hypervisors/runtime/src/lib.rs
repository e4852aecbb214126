//! What a bare-metal program brings instead of std and libc: entry, console, heap, exit.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! runtime::entry!(main);
//!
//! fn main() {
//!     runtime::println!("hello");
//! }
//! ```
//!
//! `main` runs on the first CPU with exceptions caught and the heap ready. If it returns, the run
//! has passed; a panic or an exception prints `failed: ` and why, and the run has failed.
#![no_std]
#![allow(unsafe_code)]

mod console;
mod heap;
mod region;

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use console::print_line;
pub use region::{Region, guest_memory};

use core::panic::PanicInfo;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All that was to be shown was shown.
    Passed,
    /// It was not. Why is on the console.
    Failed,
}

/// Leaves the emulator.
pub fn exit(verdict: Verdict) -> ! {
    arch::exit(verdict)
}

/// Names the function that the program begins with.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[allow(unsafe_code)]
        const _: () = {
            // SAFETY: nothing else has the name.
            #[unsafe(no_mangle)]
            fn hypervisor_main() {
                $main();
            }
        };
    };
}

unsafe extern "Rust" {
    safe fn hypervisor_main();
}

/// Where the architecture's entry code goes once it has a console and exceptions are caught.
pub(crate) fn start() -> ! {
    heap::prepare();
    hypervisor_main();
    exit(Verdict::Passed)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => console::print_last(format_args!("failed: {} ({place})", info.message())),
        None => console::print_last(format_args!("failed: {}", info.message())),
    }
    exit(Verdict::Failed)
}

// The prebuilt `core` and `alloc` were built to unwind and name these; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(Verdict::Failed)
}
