//! A second CPU: started for one job, and halted when that is done.

use super::vectors;
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

unsafe extern "C" {
    static another_start: u8;
    static another_end: u8;
}

/// Where the second CPU begins: page 8, which its start names.
const START: usize = 0x8000;

/// The interrupt command register of the local APIC (AMD APM vol. 2, 16.5), for all CPUs but this
/// one.
const COMMAND: usize = 0xfee0_0300;
const PENDING: u32 = 1 << 12;
const OTHERS: u32 = 3 << 18 | 1 << 14;
const NMI: u32 = OTHERS | 4 << 8;
const INIT: u32 = OTHERS | 5 << 8;
const STARTUP: u32 = OTHERS | 6 << 8 | 8;

/// How long a CPU may take to hear of its start before it is told again.
const PATIENCE: u32 = 100_000;

/// The selector of the first CPU's task state.
const FIRST_TASK: u16 = 0x18;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// What the second CPU is to do, until it has begun.
static JOB: AtomicPtr<Job<'static>> = AtomicPtr::new(ptr::null_mut());

struct Job<'a> {
    call: &'a mut (dyn FnMut() + Send),
    done: &'a AtomicBool,
}

/// How many CPUs the machine has.
#[must_use]
pub fn cpus() -> u32 {
    __cpuid(1).ebx >> 16 & 0xff
}

/// Which CPU this is: 0 or 1.
#[must_use]
pub fn cpu() -> usize {
    let task: u16;
    // SAFETY: reading a selector has no effect.
    unsafe { asm!("str {:x}", out(reg) task, options(nomem, nostack, preserves_flags)) }
    usize::from(task != FIRST_TASK)
}

/// Does `there` on the second CPU while it does `here` on this one, and returns when both are done.
///
/// # Panics
/// If the machine has no second CPU, or it is taken.
pub fn beside(there: impl FnOnce() + Send, here: impl FnOnce()) {
    assert!(cpus() > 1, "the machine has one CPU");
    let mut there = Some(there);
    let done = AtomicBool::new(false);
    let mut call = || there.take().expect("called once")();
    let mut job = Job { call: &mut call, done: &done };
    assert!(!TAKEN.swap(true, Ordering::Acquire), "the second CPU is taken");
    JOB.store((&raw mut job).cast(), Ordering::SeqCst);
    start();
    here();
    while !done.load(Ordering::Acquire) {
        spin_loop();
    }
    TAKEN.store(false, Ordering::Release);
}

/// Has the other CPUs leave their guests, if they are in one: a non-maskable interrupt.
pub fn kick_others() {
    command(NMI);
}

/// Told again until it has taken its job: a CPU that runs does not hear of another start.
fn start() {
    let (first, end) = (&raw const another_start, (&raw const another_end).addr());
    // SAFETY: the page is ordinary memory that nobody else uses, and mapped one to one.
    unsafe {
        let page = ptr::with_exposed_provenance_mut::<u8>(START);
        ptr::copy_nonoverlapping(first, page, end - first.addr());
    }
    command(INIT);
    while !JOB.load(Ordering::SeqCst).is_null() {
        command(STARTUP);
        (0..PATIENCE)
            .take_while(|_| !JOB.load(Ordering::SeqCst).is_null())
            .for_each(|_| spin_loop());
    }
}

fn command(command: u32) {
    let register = ptr::with_exposed_provenance_mut::<u32>(COMMAND);
    // SAFETY: the local APIC is there, mapped one to one, and each CPU has its own.
    unsafe {
        while register.read_volatile() & PENDING != 0 {
            spin_loop();
        }
        register.write_volatile(command);
    }
}

/// Where the second CPU arrives.
pub(super) extern "C" fn enter_another() -> ! {
    vectors::load();
    let job = JOB.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: `beside` has put it there, and waits until it is done.
    let Job { call, done } = unsafe { &mut *job };
    call();
    done.store(true, Ordering::Release);
    loop {
        // SAFETY: with interrupts off it stops here until it is started anew.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
