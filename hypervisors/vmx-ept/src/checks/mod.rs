//! What only this processor can show: sub-page tables, the page log, and tables that are damaged.

mod damage;
mod page_log;
mod sub_page_rounds;
mod sub_pages;
mod tables;
mod walks;

use crate::processor::Vmx;
use ::checks::Check;
use alloc::vec::Vec;
use vellum_mmu::SubPageHardware;
use vm::Processor;

/// Those that the processor at hand has what it takes for.
pub(crate) fn checks() -> Vec<Check<Vmx>> {
    let features = Vmx::features();
    let mut all = damage::checks();
    if features.accessed_dirty {
        all.extend(x86_guest::walks::checks());
    } else {
        all.extend(walks::checks());
    }
    if features.page_log {
        all.extend(page_log::checks());
    }
    if features.sub_pages == SubPageHardware::Present {
        all.extend(sub_pages::checks());
    }
    all
}
