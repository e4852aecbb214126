//! A second CPU, started by PSCI (Arm DEN 0022) for as long as it has something to do.

use core::arch::asm;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
/// What AFFINITY_INFO says of a CPU that is off.
const OFF: u64 = 1;

const SECOND: u64 = 1;

/// Whether the second CPU is taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn boot_another();
}

/// What the second CPU is to do, and whether it has done it.
struct Job<'a> {
    call: &'a mut (dyn FnMut() + Send),
    done: &'a AtomicBool,
}

/// Does `there` on the second CPU while it does `here` on this one, and returns when both are done.
///
/// # Panics
/// If the machine has no second CPU, or it is taken.
pub fn beside(there: impl FnOnce() + Send, here: impl FnOnce()) {
    assert!(!TAKEN.swap(true, Ordering::Acquire), "the second CPU is taken");
    let mut there = Some(there);
    let done = AtomicBool::new(false);
    let mut call = || there.take().expect("called once")();
    let mut job = Job { call: &mut call, done: &done };
    start(&mut job);
    here();
    // Both are needed: emulators tell of a CPU that is about to start that it is off.
    while !done.load(Ordering::Acquire) || !is_off() {
        spin_loop();
    }
    TAKEN.store(false, Ordering::Release);
}

fn start(job: &mut Job<'_>) {
    let entry: unsafe extern "C" fn() = boot_another;
    let (entry, context) = (entry as usize as u64, (&raw mut *job).addr() as u64);
    // SAFETY: the CPU begins at our entry, with a job that stays until it is off again.
    let started = unsafe { firmware(CPU_ON, SECOND, entry, context) };
    assert_eq!(started, 0, "the second CPU does not start: the machine needs -smp 2");
}

fn is_off() -> bool {
    // SAFETY: a question.
    unsafe { firmware(AFFINITY_INFO, SECOND, 0, 0) == OFF }
}

/// Where `boot_another` goes.
///
/// # Safety
/// `job` is a [`Job`] that is alive until its `done` is set, and this CPU's alone.
pub(super) unsafe extern "C" fn enter_another(job: *mut ()) -> ! {
    // SAFETY: by the caller's promise.
    let Job { call, done } = unsafe { &mut *job.cast::<Job<'_>>() };
    call();
    done.store(true, Ordering::Release);
    // SAFETY: this CPU's stack has nothing that anybody waits for.
    unsafe { firmware(CPU_OFF, 0, 0, 0) };
    unreachable!("a CPU that is off");
}

/// Calls PSCI, which is below EL2 on this machine.
///
/// # Safety
/// As the function that is called asks for.
unsafe fn firmware(function: u64, first: u64, second: u64, third: u64) -> u64 {
    let result: u64;
    // SAFETY: by the caller's promise. By the calling convention x0 to x17 are lost at most.
    unsafe {
        asm!(
            "dsb ish",
            "smc #0",
            inout("x0") function => result,
            inout("x1") first => _,
            inout("x2") second => _,
            inout("x3") third => _,
            clobber_abi("C"),
        );
    }
    result
}
