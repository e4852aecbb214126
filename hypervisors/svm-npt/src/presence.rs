//! Who is in a guest, so that a shoot-down knows whom to wait for.
#![allow(unsafe_code)]

use core::arch::asm;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use runtime::x86_64::{cpu, kick_others};

/// How many shoot-downs there were. A vCPU that has entered since the last one owes none.
static SHOOT_DOWNS: AtomicU64 = AtomicU64::new(0);

/// How often each CPU has entered a guest and left it: odd while it is inside.
static CROSSINGS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// This CPU is about to enter a guest. Says how many shoot-downs there were so far: one that is not
/// among them finds it inside, and waits for it.
///
/// No interrupt comes between this and the entry: it ends the guest's run instead.
pub(crate) fn enter() -> u64 {
    // SAFETY: VMRUN or `leave` sets the flag again.
    unsafe { asm!("clgi", options(nostack)) }
    CROSSINGS[cpu()].fetch_add(1, Ordering::SeqCst);
    SHOOT_DOWNS.load(Ordering::SeqCst)
}

/// It has left. Who waits for that may go on, and whoever has kicked it is heard.
pub(crate) fn leave() {
    CROSSINGS[cpu()].fetch_add(1, Ordering::SeqCst);
    // SAFETY: interrupts may come again, and there is a handler for the one that does.
    unsafe { asm!("stgi", options(nostack)) }
}

/// Each vCPU drops its translations at its next entry; the one that is in its guest has to leave it
/// first.
pub(crate) fn shoot_down() {
    SHOOT_DOWNS.fetch_add(1, Ordering::SeqCst);
    let other = &CROSSINGS[1 - cpu()];
    let seen = other.load(Ordering::SeqCst);
    if seen % 2 == 1 {
        kick_others();
        while other.load(Ordering::SeqCst) == seen {
            spin_loop();
        }
    }
}
