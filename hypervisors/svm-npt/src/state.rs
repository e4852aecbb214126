//! The guest as it begins: in 64-bit mode, at the start of its program.

use crate::operation::EFER_SVME;
use crate::vmcb::{Field, Segment, Vmcb};

/// Each exception exits, the guest having no handlers; and so do HLT, a shutdown, the kick of another
/// CPU, and whatever reaches for a port or a model-specific register.
const EXCEPTIONS: u64 = 0xffff_ffff;
const NMI: u64 = 1 << 1;
const HLT: u64 = 1 << 24;
const PORTS: u64 = 1 << 27;
const MSRS: u64 = 1 << 28;
const SHUTDOWN: u64 = 1 << 31;
/// VMRUN has to exit; VMMCALL is the hypercall.
const VMRUN: u64 = 1 << 0;
const VMMCALL: u64 = 1 << 1;

/// Long mode, switched on and in effect; SVME, without which there is no guest; no-execute.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11 | EFER_SVME;
/// Paging, write protection, numeric errors, extension type, FPU monitoring, protected mode.
const CR0: u64 = 0x8001_0033;
/// PAE.
const CR4: u64 = 1 << 5;
/// What they are after a reset.
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
const PAT: u64 = 0x0007_0406_0007_0406;
/// The bit that is always set: interrupts are off.
const RFLAGS: u64 = 1 << 1;

const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const CODE_RIGHTS: u16 = 0xa9b;
const DATA_RIGHTS: u16 = 0xc93;

/// A bit for each port or register that exits. In frames of its own, where the processor looks.
#[repr(C, align(4096))]
struct Map<const BYTES: usize>([u8; BYTES]);

static PORT_MAP: Map<0x3000> = Map([0xff; 0x3000]);
static MSR_MAP: Map<0x2000> = Map([0xff; 0x2000]);

/// Sets everything that stays as it is, and the guest's state.
pub(crate) fn set_fixed(vmcb: &mut Vmcb) {
    let values = [
        (Field::InterceptsLow, EXCEPTIONS | (NMI | HLT | PORTS | MSRS | SHUTDOWN) << 32),
        (Field::InterceptsHigh, VMRUN | VMMCALL),
        (Field::PortMap, PORT_MAP.0.as_ptr().addr() as u64),
        (Field::MsrMap, MSR_MAP.0.as_ptr().addr() as u64),
        (Field::NestedPaging, 1),
        (Field::Privilege, 0),
        (Field::Efer, EFER),
        (Field::Cr0, CR0),
        (Field::Cr3, x86_guest::ROOT.get()),
        (Field::Cr4, CR4),
        (Field::Dr6, DR6),
        (Field::Dr7, DR7),
        (Field::Pat, PAT),
        (Field::Rflags, RFLAGS),
        (Field::Rip, x86_guest::ENTRY),
    ];
    for (field, value) in values {
        vmcb.set(field, value);
    }
    vmcb.set_segment(Segment::Cs, CODE, CODE_RIGHTS, u32::MAX);
    for data in [Segment::Ds, Segment::Es, Segment::Ss] {
        vmcb.set_segment(data, DATA, DATA_RIGHTS, u32::MAX);
    }
    // No table of handlers: an exception that did not exit would be a shutdown.
    for table in [Segment::Gdtr, Segment::Idtr] {
        vmcb.set_segment(table, 0, 0, 0);
    }
}
