//! System registers by name.
//!
//! Reading one of these changes nothing. What writing one does is its own matter: whoever writes says
//! why that is right.

use core::arch::asm;

macro_rules! registers {
    ($($name:ident / $set:ident: $meaning:literal;)*) => {$(
        #[doc = $meaning]
        #[must_use]
        pub fn $name() -> u64 {
            let value: u64;
            // SAFETY: this program runs at EL2, and reading has no effect.
            unsafe {
                asm!(concat!("mrs {}, ", stringify!($name)), out(reg) value, options(nomem, nostack));
            }
            value
        }

        #[doc = concat!("Sets it: ", $meaning)]
        ///
        /// # Safety
        /// The processor takes the value, and what it switches on or names is right.
        pub unsafe fn $set(value: u64) {
            // SAFETY: by the caller's promise.
            unsafe {
                asm!(concat!("msr ", stringify!($name), ", {}"), in(reg) value, options(nostack));
            }
        }
    )*};
}

macro_rules! constants {
    ($($name:ident: $meaning:literal;)*) => {$(
        #[doc = $meaning]
        #[must_use]
        pub fn $name() -> u64 {
            let value: u64;
            // SAFETY: this program runs at EL2, and reading has no effect.
            unsafe {
                asm!(concat!("mrs {}, ", stringify!($name)), out(reg) value, options(nomem, nostack));
            }
            value
        }
    )*};
}

constants! {
    mpidr_el1: "Which CPU this is.";
    id_aa64mmfr0_el1: "How much memory, and which granules.";
    id_aa64mmfr1_el1: "Which features of translation.";
}

registers! {
    hcr_el2 / set_hcr_el2: "What EL2 takes of what EL1 does.";
    vtcr_el2 / set_vtcr_el2: "How stage-2 tables are walked.";
    vttbr_el2 / set_vttbr_el2: "The stage-2 root, and the VM's number.";
    esr_el2 / set_esr_el2: "Why EL2 was entered.";
    elr_el2 / set_elr_el2: "Where EL2 was entered from.";
    far_el2 / set_far_el2: "The virtual address of a fault.";
    hpfar_el2 / set_hpfar_el2: "The intermediate physical page of a fault.";
    tpidr_el2 / set_tpidr_el2: "EL2's own, for what it likes.";
    par_el1 / set_par_el1: "The result of an address translation.";
    sctlr_el1 / set_sctlr_el1: "Whether EL1 has its MMU and caches on.";
    tcr_el1 / set_tcr_el1: "How stage-1 tables are walked.";
    ttbr0_el1 / set_ttbr0_el1: "The stage-1 root of low addresses.";
    mair_el1 / set_mair_el1: "The memory types that stage 1 names.";
    vbar_el1 / set_vbar_el1: "EL1's vectors.";
    esr_el1 / set_esr_el1: "Why EL1 took an exception.";
}
