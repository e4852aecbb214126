//! Why the guest has left, as the processor says it and as the rest of the hypervisor hears it.

use crate::fields::Field;
use crate::vmcs::Vmcs;
use vellum_mmu::Access;
use vellum_pte::{Gpa, SubPageEvent};
use vm::Exit;

/// Exit reasons (Intel SDM vol. 3D, appendix C).
const EXCEPTION_OR_NMI: u64 = 0;
const VMCALL: u64 = 18;
const EPT_VIOLATION: u64 = 48;
const EPT_MISCONFIGURATION: u64 = 49;
const PAGE_LOG_FULL: u64 = 62;
const SUB_PAGE_EVENT: u64 = 66;

/// Exit interruption information: a non-maskable interrupt, by its type.
const INTERRUPTION_TYPE: u64 = 7 << 8;
const NMI: u64 = 2 << 8;

/// Whether another CPU has ended the guest's run, which is not for the hypervisor to see.
pub(crate) fn is_kick(vmcs: &Vmcs) -> bool {
    vmcs.get(Field::ExitReason) == EXCEPTION_OR_NMI
        && vmcs.get(Field::ExitInterruption) & INTERRUPTION_TYPE == NMI
}

/// What the exit is, `loaded` being what the guest has loaded if it is done.
pub(crate) fn decode(vmcs: &Vmcs, loaded: u64) -> Exit {
    let reason = vmcs.get(Field::ExitReason);
    let qualification = vmcs.get(Field::ExitQualification);
    let gpa = || Gpa::new(vmcs.get(Field::GuestPhysicalAddress));
    match reason {
        VMCALL => Exit::Done(loaded),
        EPT_VIOLATION => {
            Exit::Fault { gpa: gpa(), access: Access::of_ept_violation(qualification) }
        }
        EPT_MISCONFIGURATION => Exit::Misconfigured(gpa()),
        PAGE_LOG_FULL => Exit::LogFull,
        SUB_PAGE_EVENT => {
            let event = SubPageEvent::from_qualification(qualification);
            Exit::SubPage { gpa: gpa(), event }
        }
        // With bit 31 the entry has failed, and the rest says why.
        other => Exit::Other(other),
    }
}
