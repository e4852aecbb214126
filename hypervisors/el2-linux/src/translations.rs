//! What TLBs remember of the guest's second stage.
#![allow(unsafe_code)]

use vellum_pte::Gpa;

/// Makes what was written to a table visible to every walker.
pub(crate) fn publish() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Makes every CPU forget what it remembers of the VM that VTTBR_EL2 names: both stages.
pub(crate) fn forget_all() {
    // SAFETY: forgetting translations changes no memory. The first barrier lets walkers see the
    // tables, the second waits for accesses that used what is forgotten.
    unsafe {
        core::arch::asm!(
            "dsb ishst",
            "tlbi vmalls12e1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Makes this CPU forget a refusal of `gpa`, and its walker see the tables.
pub(crate) fn forget(gpa: Gpa) {
    // SAFETY: as above. What both stages give together is named by no address of ours, so all of it
    // goes.
    unsafe {
        core::arch::asm!(
            "dsb ishst",
            "tlbi ipas2e1, {page}",
            "dsb nsh",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            page = in(reg) gpa.get() >> 12,
            options(nostack, preserves_flags)
        );
    }
}
