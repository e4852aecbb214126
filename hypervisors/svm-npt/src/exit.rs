//! Why the guest has left, as the processor says it and as the rest of the hypervisor hears it.

use crate::vmcb::{Field, Vmcb};
use vellum_mmu::Access;
use vellum_pte::Gpa;
use vm::Exit;

/// Exit codes (AMD APM vol. 2, appendix C).
const NMI: u64 = 0x61;
const VMMCALL: u64 = 0x81;
const NESTED_PAGE_FAULT: u64 = 0x400;

/// Exit info 1 of a nested page fault (AMD APM vol. 2, 15.25.6).
const RESERVED: u64 = 1 << 3;

/// What the exit is, `loaded` being what the guest has loaded if it is done. `None` if another CPU has
/// kicked it out, and it just goes on.
pub(crate) fn decode(vmcb: &Vmcb, loaded: u64) -> Option<Exit> {
    match vmcb.get(Field::ExitCode) {
        NMI => None,
        VMMCALL => Some(Exit::Done(loaded)),
        NESTED_PAGE_FAULT => {
            Some(fault(Gpa::new(vmcb.get(Field::ExitInfo2)), vmcb.get(Field::ExitInfo1)))
        }
        other => Some(Exit::Other(other)),
    }
}

/// An entry with a reserved bit is none that the library has written: nobody else may fault on it for
/// ever. (QEMU calls it not present.)
fn fault(gpa: Gpa, info: u64) -> Exit {
    if info & RESERVED != 0 {
        return Exit::Misconfigured(gpa);
    }
    Exit::Fault { gpa, access: Access::of_nested_page_fault(info) }
}
