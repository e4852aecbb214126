//! A VMCS: a vCPU as the processor keeps it.
#![allow(unsafe_code)]

use crate::CPUS;
use crate::fields::Field;
use crate::instructions::{Refused, vmclear, vmptrld, vmread, vmwrite};
use crate::page::Page;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use runtime::x86_64::cpu;

/// The VMCS that each CPU has loaded, by its address.
static CURRENT: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// A VMCS of this CPU's.
pub(crate) struct Vmcs {
    region: Box<Page>,
}

impl Vmcs {
    /// A fresh one. **The processor is in VMX operation.**
    pub(crate) fn new(revision: u32) -> Self {
        let region = Page::boxed();
        region.set(0, u64::from(revision));
        // SAFETY: by the sentence above; the page is this value's alone until it drops.
        let cleared = unsafe { vmclear(region.address()) };
        cleared.expect("the page is one for a VMCS");
        Self { region }
    }

    /// Makes it the one that the functions below are about.
    pub(crate) fn load(&self) {
        let address = self.region.address();
        if CURRENT[cpu()].swap(address, Ordering::Relaxed) == address {
            return;
        }
        // SAFETY: `new` has cleared it, on this CPU: a vCPU stays where it was made.
        let loaded = unsafe { vmptrld(address) };
        loaded.expect("the VMCS is one of this processor");
    }

    /// A field. It is loaded.
    pub(crate) fn get(&self, field: Field) -> u64 {
        vmread(field as u64).unwrap_or_else(|Refused| panic!("no field {field:?} to read"))
    }

    /// Sets a field. It is loaded.
    pub(crate) fn set(&self, field: Field, value: u64) {
        self.set_following(field, 0, value);
    }

    /// Sets a field that follows the one that is named.
    pub(crate) fn set_following(&self, field: Field, following: u64, value: u64) {
        // SAFETY: what is written here is made in `state.rs`, `controls.rs` and `processor.rs`,
        // from the host's own registers and from tables that live as long as the VM.
        let written = unsafe { vmwrite(field.plus(following), value) };
        written.unwrap_or_else(|Refused| panic!("field {field:?} does not take {value:#x}"));
    }
}

impl Drop for Vmcs {
    /// The processor writes what it keeps of it back, and forgets it.
    fn drop(&mut self) {
        let address = self.region.address();
        // SAFETY: it was cleared and loaded on this CPU, in VMX operation, which nobody ends.
        let cleared = unsafe { vmclear(address) };
        cleared.expect("a VMCS of this processor");
        let current = &CURRENT[cpu()];
        let _ = current.compare_exchange(address, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
