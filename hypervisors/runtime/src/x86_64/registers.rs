//! Registers that only a kernel reaches.

use core::arch::asm;

/// A model-specific register's value.
///
/// # Safety
/// The processor has the register.
#[must_use]
pub unsafe fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by the caller's promise; reading has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Sets a model-specific register.
///
/// # Safety
/// The processor has the register and takes the value, and what the value switches on or names is
/// right.
#[expect(clippy::cast_possible_truncation, reason = "both halves are passed")]
pub unsafe fn write_msr(number: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: by the caller's promise.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack)) }
}

macro_rules! control_register {
    ($read:ident, $name:literal, $meaning:literal) => {
        #[doc = $meaning]
        #[must_use]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: this program runs at privilege level 0, and reading has no effect.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) }
            value
        }
    };
}

control_register!(cr0, "cr0", "Protection and paging.");
control_register!(cr2, "cr2", "The address of the last page fault.");
control_register!(cr3, "cr3", "The root of the page tables.");
control_register!(cr4, "cr4", "Extensions.");

/// Sets CR4.
///
/// # Safety
/// The processor has what is switched on, and nothing that runs depends on what is switched off.
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: by the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack)) }
}
