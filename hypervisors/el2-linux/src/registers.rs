//! System registers by name: those that this program reads, and those of the guest's, or about how it
//! runs, that it writes.
#![allow(unsafe_code)]

use core::arch::asm;

macro_rules! read {
    ($($name:ident),*) => {$(
        pub(crate) fn $name() -> u64 {
            let value: u64;
            // SAFETY: a read of this register changes nothing.
            unsafe {
                asm!(
                    concat!("mrs {}, ", stringify!($name)),
                    out(reg) value,
                    options(nostack, preserves_flags)
                );
            }
            value
        }
    )*};
}

macro_rules! write {
    ($($name:ident: $register:literal),*) => {$(
        pub(crate) fn $name(value: u64) {
            // SAFETY: G: the register is of a level below this program's, and what the guest does with
            // it reaches what its second stage leads to.
            unsafe {
                asm!(
                    concat!("msr ", $register, ", {}"),
                    "isb",
                    in(reg) value,
                    options(nostack, preserves_flags)
                );
            }
        }
    )*};
}

macro_rules! rule {
    ($($name:ident: $register:literal),*) => {$(
        /// # Safety
        /// P, G: what the register says of the guest keeps it to what its second stage leads to.
        pub(crate) unsafe fn $name(value: u64) {
            // SAFETY: by the caller's promise.
            unsafe {
                asm!(
                    concat!("msr ", $register, ", {}"),
                    "isb",
                    in(reg) value,
                    options(nostack, preserves_flags)
                );
            }
        }
    )*};
}

read!(
    cntfrq_el0, cntpct_el0, esr_el2, far_el2, hpfar_el2, isr_el1, midr_el1, mpidr_el1, par_el1,
    pmcr_el0
);

write!(
    set_afsr0_el1: "afsr0_el1",
    set_afsr1_el1: "afsr1_el1",
    set_amair_el1: "amair_el1",
    set_cntvoff_el2: "cntvoff_el2",
    set_contextidr_el1: "contextidr_el1",
    set_esr_el1: "esr_el1",
    set_far_el1: "far_el1",
    set_mair_el1: "mair_el1",
    set_par_el1: "par_el1",
    set_sctlr_el1: "sctlr_el1",
    set_tcr_el1: "tcr_el1",
    set_ttbr0_el1: "ttbr0_el1",
    set_ttbr1_el1: "ttbr1_el1",
    set_vmpidr_el2: "vmpidr_el2",
    set_vpidr_el2: "vpidr_el2"
);

rule!(
    set_cnthctl_el2: "cnthctl_el2",
    set_cptr_el2: "cptr_el2",
    set_hcr_el2: "hcr_el2",
    set_hstr_el2: "hstr_el2",
    set_icc_sre_el2: "S3_4_C12_C9_5",
    set_ich_hcr_el2: "S3_4_C12_C11_0",
    set_mdcr_el2: "mdcr_el2",
    set_vtcr_el2: "vtcr_el2",
    set_vttbr_el2: "vttbr_el2"
);
