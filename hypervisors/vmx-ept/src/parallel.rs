//! Two vCPUs on two CPUs.

use crate::operation;
use crate::processor::Vmx;
use ::checks::parallel::{self, Parallel};
use ::checks::{Check, Lab, Vm, page};
use alloc::string::String;
use alloc::vec::Vec;
use vellum_mmu::{Config, DirtyBits, LogMode, SubPageForm, SubPageHardware, SubPageRange};
use vellum_pte::SubPageMap;
use vm::{Processor, SPACE};

impl Parallel for Vmx {
    fn beside(there: impl FnOnce() + Send, here: impl FnOnce()) {
        let there = || {
            operation::enter();
            there();
            operation::leave();
        };
        runtime::x86_64::beside(there, here);
    }
}

/// Those of each machine with two CPUs, and those of what only this processor has.
pub(crate) fn checks() -> Vec<Check<Vmx>> {
    let (mut all, features) = (parallel::checks(), Vmx::features());
    if features.page_log {
        all.push(Check::new("parallel-page-log", page_log));
    }
    if features.sub_pages == SubPageHardware::Present {
        all.push(Check::new("parallel-sub-page-tables", sub_page_tables));
    }
    all
}

/// Stores are logged by the page log of each CPU: whoever harvests has the other one leave its guest
/// and takes over what it has logged.
fn page_log(lab: &Lab<Vmx>) -> String {
    let config = Config { dirty_bits: DirtyBits::Logged, ..lab.config() };
    parallel::storm(&Vm::new(lab.host(), config, LogMode::On))
}

/// The pages have maps, which permit what is stored: every store asks the sub-page tables, which close
/// and open under both CPUs.
fn sub_page_tables(lab: &Lab<Vmx>) -> String {
    let vm = lab.logged();
    assert_eq!(vm.mmu.activate_sub_pages(), Ok(SubPageForm::ByTables));
    let first_only: Vec<SubPageMap> = (0..parallel::ALL).map(|_| SubPageMap::new(1)).collect();
    let range = SubPageRange::new(SPACE, page(0).gfn());
    assert_eq!(vm.mmu.set_sub_pages(range, &first_only), Ok(first_only.len()));
    parallel::storm(&vm)
}
