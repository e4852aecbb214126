//! Switching SVM on, and what this processor's SVM can do (AMD APM vol. 2, 15.4 and 15.30).
#![allow(unsafe_code)]

use core::arch::x86_64::{__cpuid, CpuidResult};
use core::cell::UnsafeCell;
use runtime::x86_64::{cpu, read_msr, write_msr};

const EFER: u32 = 0xc000_0080;
pub(crate) const EFER_SVME: u64 = 1 << 12;
const VM_HSAVE_PA: u32 = 0xc001_0117;
const VM_CR: u32 = 0xc001_0114;
const SVM_DISABLED: u64 = 1 << 4;

const EXTENDED_FEATURES: u32 = 0x8000_0001;
/// In ECX.
const SVM: u32 = 1 << 2;
const SVM_FEATURES: u32 = 0x8000_000a;
/// In EDX.
const NESTED_PAGING: u32 = 1 << 0;
const FLUSH_BY_ASID: u32 = 1 << 6;

/// Where a CPU keeps the host's state while the guest runs. In a form of its own.
#[repr(C, align(4096))]
struct HostState(UnsafeCell<[u8; 4096]>);

// SAFETY: no code of this program looks into it.
unsafe impl Sync for HostState {}

static HOST_STATES: [HostState; 2] = [const { HostState(UnsafeCell::new([0; 4096])) }; 2];

/// How translations of a guest are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Flush {
    /// Nothing is dropped.
    None = 0,
    /// Everything that the TLB holds.
    All = 1,
    /// What it holds of this guest.
    Guest = 3,
}

/// Switches SVM on for this CPU.
///
/// # Panics
/// Where there is no SVM, none with nested paging, or it was switched off.
pub(crate) fn enter() {
    assert!(cpuid(EXTENDED_FEATURES).ecx & SVM != 0, "this processor has no SVM");
    assert!(svm_features().edx & NESTED_PAGING != 0, "its SVM has no nested paging");
    // SAFETY: a processor with SVM has the register.
    let disabled = unsafe { read_msr(VM_CR) } & SVM_DISABLED != 0;
    assert!(!disabled, "the firmware has switched SVM off");
    // SAFETY: the processor has SVM, and the page is set aside for this CPU, at its physical address.
    unsafe {
        write_msr(EFER, read_msr(EFER) | EFER_SVME);
        write_msr(VM_HSAVE_PA, HOST_STATES[cpu()].0.get().addr() as u64);
    }
}

/// How many guests' translations the TLB tells apart, the host's included.
pub(crate) fn asids() -> u64 {
    u64::from(svm_features().ebx)
}

/// The narrowest way to drop a guest's translations that this processor has.
pub(crate) fn narrowest_flush() -> Flush {
    if svm_features().edx & FLUSH_BY_ASID != 0 { Flush::Guest } else { Flush::All }
}

fn svm_features() -> CpuidResult {
    cpuid(SVM_FEATURES)
}

fn cpuid(leaf: u32) -> CpuidResult {
    __cpuid(leaf)
}
