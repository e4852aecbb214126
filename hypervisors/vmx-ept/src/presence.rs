//! Who is in a guest, so that a shoot-down knows whom to wait for.

use crate::CPUS;
use crate::instructions::invept_all;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use runtime::x86_64::{cpu, cpus, kick_others};

/// How many shoot-downs there were.
static SHOOT_DOWNS: AtomicU64 = AtomicU64::new(0);

/// How often each CPU has entered a guest and left it: odd while it is inside.
static CROSSINGS: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// The last shoot-down that each CPU has answered.
static ANSWERED: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// How long a CPU may take to hear a kick before it is kicked again.
const PATIENCE: u32 = 1000;

/// This CPU is about to enter a guest: it forgets first what it was told to. A shoot-down that comes
/// later finds it inside, and waits for it.
pub(crate) fn enter() {
    let here = cpu();
    CROSSINGS[here].fetch_add(1, Ordering::SeqCst);
    let count = SHOOT_DOWNS.load(Ordering::SeqCst);
    if ANSWERED[here].swap(count, Ordering::Relaxed) != count {
        invept_all().expect("a processor in VMX operation");
    }
}

/// It has left. Who waits for that may go on.
pub(crate) fn leave() {
    CROSSINGS[cpu()].fetch_add(1, Ordering::SeqCst);
}

/// Each CPU forgets all translations of guests before it next enters one; the one that is inside has
/// to leave it first. It is kicked until it has: a kick that comes just before the entry ends nothing.
pub(crate) fn shoot_down() {
    SHOOT_DOWNS.fetch_add(1, Ordering::SeqCst);
    if cpus() == 1 {
        return;
    }
    let other = &CROSSINGS[1 - cpu()];
    let seen = other.load(Ordering::SeqCst);
    while seen % 2 == 1 && other.load(Ordering::SeqCst) == seen {
        kick_others();
        spin_while(|| other.load(Ordering::SeqCst) == seen);
    }
}

/// Waits while `condition` holds, but no longer than a CPU may take to hear a kick.
pub(crate) fn spin_while(condition: impl Fn() -> bool) {
    (0..PATIENCE).take_while(|_| condition()).for_each(|_| spin_loop());
}
