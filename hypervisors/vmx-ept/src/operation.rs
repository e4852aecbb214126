//! VMX operation: on while a CPU runs guests.
#![allow(unsafe_code)]

use crate::CPUS;
use crate::capabilities::Capability;
use crate::instructions::{set_cr0, vmxoff, vmxon};
use crate::page::Page;
use core::sync::atomic::{AtomicBool, Ordering};
use runtime::x86_64::{cpu, cr0, cr4, read_msr, set_cr4, write_msr};

const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// What each CPU has of its own.
struct Operation {
    is_on: AtomicBool,
    region: Page,
}

static OPERATIONS: [Operation; CPUS] =
    [const { Operation { is_on: AtomicBool::new(false), region: Page::new() } }; CPUS];

/// The revision that regions begin with.
pub(crate) fn revision() -> u32 {
    let low = Capability::Basic.read() & 0x7fff_ffff;
    u32::try_from(low).expect("31 bits")
}

/// Sees to it that this CPU is in VMX operation.
pub(crate) fn enter() {
    let Operation { is_on, region } = &OPERATIONS[cpu()];
    if is_on.swap(true, Ordering::Relaxed) {
        return;
    }
    unlock();
    // SAFETY: adds what VMX asks for: CR0.NE and CR4.VMXE. Nothing here has FPU errors reported.
    unsafe {
        set_cr0(cr0() | Capability::Cr0Fixed.read());
        set_cr4(cr4() | Capability::Cr4Fixed.read());
    }
    region.set(0, u64::from(revision()));
    // SAFETY: the page is this CPU's for good, and the registers have just been set.
    let entered = unsafe { vmxon(region.address()) };
    entered.expect("VMX is allowed, and not yet on");
}

/// Ends it on this CPU, which has no VMCS any more. In VMX operation it would not hear of an INIT.
pub(crate) fn leave() {
    // SAFETY: nothing of VMX is used on this CPU until `enter`.
    let left = unsafe { vmxoff() };
    left.expect("a CPU in VMX operation");
    OPERATIONS[cpu()].is_on.store(false, Ordering::Relaxed);
}

/// Allows VMX where firmware has left that open.
fn unlock() {
    // SAFETY: every processor with VMX has the register.
    let control = unsafe { read_msr(FEATURE_CONTROL) };
    if control & LOCKED == 0 {
        // SAFETY: it is not locked, and takes these bits.
        unsafe { write_msr(FEATURE_CONTROL, control | LOCKED | VMX_OUTSIDE_SMX) };
    } else {
        assert_ne!(control & VMX_OUTSIDE_SMX, 0, "firmware has forbidden VMX");
    }
}
