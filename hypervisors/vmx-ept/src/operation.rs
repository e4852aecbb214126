//! VMX operation: switched on once, for good.
#![allow(unsafe_code)]

use crate::capabilities::Capability;
use crate::instructions::{set_cr0, vmxon};
use crate::page::Page;
use core::sync::atomic::{AtomicBool, Ordering};
use runtime::x86_64::{cr0, cr4, read_msr, set_cr4, write_msr};

const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

static IS_ON: AtomicBool = AtomicBool::new(false);
static REGION: Page = Page::new();

/// The revision that regions begin with.
pub(crate) fn revision() -> u32 {
    let low = Capability::Basic.read() & 0x7fff_ffff;
    u32::try_from(low).expect("31 bits")
}

/// Sees to it that the processor is in VMX operation.
pub(crate) fn enter() {
    if IS_ON.swap(true, Ordering::Relaxed) {
        return;
    }
    unlock();
    // SAFETY: adds what VMX asks for: CR0.NE and CR4.VMXE. Nothing here has FPU errors reported.
    unsafe {
        set_cr0(cr0() | Capability::Cr0Fixed.read());
        set_cr4(cr4() | Capability::Cr4Fixed.read());
    }
    REGION.set(0, u64::from(revision()));
    // SAFETY: the page is nobody else's for good, and the registers have just been set.
    let entered = unsafe { vmxon(REGION.address()) };
    entered.expect("VMX is allowed, and not yet on");
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
