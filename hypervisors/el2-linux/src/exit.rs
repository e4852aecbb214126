//! Why the guest came out, read from the syndrome registers (Arm ARM D19.2.37, ESR_EL2).

use crate::registers;
use vellum_mmu::Access;
use vellum_pte::Gpa;

/// Through which vector the guest came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Because of an instruction.
    Synchronous,
    /// Because of an interrupt, which is the guest's alone: or something is not as it should be.
    Other(u64),
}

impl Place {
    /// As switch.s counts them.
    pub(crate) fn from_number(number: u64) -> Self {
        if number == 0 { Self::Synchronous } else { Self::Other(number) }
    }
}

/// What is for the hypervisor to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// The second stage refused an access.
    Fault {
        /// Where.
        gpa: Gpa,
        /// What kind.
        access: Access,
    },
    /// The same, but the guest's own tables do not lead there any more: it tries again.
    FaultThatMoved,
    /// A write of a register that HCR_EL2.TVM traps.
    RegisterWrite {
        /// Op0, Op1, CRn, CRm and Op2, as an MSR has them.
        register: u64,
        /// The general register that is written to it.
        from: usize,
    },
    /// It waits for an interrupt.
    Wait,
    /// It waits for another CPU, and may as well go on.
    Yield,
    /// It calls its firmware. The program counter is after the instruction.
    Call,
    /// Nothing that this hypervisor knows: ESR_EL2, FAR_EL2, HPFAR_EL2.
    Unknown([u64; 3]),
}

/// Exception classes.
mod class {
    pub(super) const WAIT: u64 = 0x01;
    pub(super) const CALL: u64 = 0x16;
    pub(super) const SYSTEM_REGISTER: u64 = 0x18;
}

/// Of an abort: why, the level left out.
const FAULT: u64 = 0x3c;
const PERMISSION: u64 = 0x0c;
const WALK_OF_FIRST_STAGE: u64 = 1 << 7;
const READS_REGISTER: u64 = 1;
const FOR_AN_EVENT: u64 = 1;

impl Exit {
    /// The exit that the registers tell of.
    pub(crate) fn of(place: Place) -> Self {
        let syndrome = registers::esr_el2();
        if let Place::Other(_) = place {
            return Self::unknown();
        }
        match syndrome >> 26 & 0x3f {
            class::WAIT if syndrome & FOR_AN_EVENT != 0 => Self::Yield,
            class::WAIT => Self::Wait,
            class::CALL => Self::Call,
            class::SYSTEM_REGISTER if syndrome & READS_REGISTER == 0 => register_write(syndrome),
            _ => Access::of_stage2_abort(syndrome)
                .map_or_else(Self::unknown, |access| Self::fault(syndrome, access)),
        }
    }

    fn fault(syndrome: u64, access: Access) -> Self {
        let walk = syndrome & WALK_OF_FIRST_STAGE != 0;
        let refused = syndrome & FAULT == PERMISSION;
        // HPFAR_EL2 says nothing of a refusal outside of walks (Arm ARM D19.2.60).
        let place =
            if refused && !walk { translated(registers::far_el2()) } else { Some(reported()) };
        place.map_or(Self::FaultThatMoved, |gpa| Self::Fault { gpa, access })
    }

    fn unknown() -> Self {
        Self::Unknown([registers::esr_el2(), registers::far_el2(), registers::hpfar_el2()])
    }
}

/// Where a fault was, as the processor says.
fn reported() -> Gpa {
    const FRAME: u64 = 0x0fff_ffff_fff0;
    let page = (registers::hpfar_el2() & FRAME) << 8;
    Gpa::new(page | registers::far_el2() & 0xfff)
}

/// Where the guest's own tables lead, as the processor walks them for this program.
#[allow(unsafe_code)]
fn translated(address: u64) -> Option<Gpa> {
    const FAILED: u64 = 1;
    const PAGE: u64 = 0x000f_ffff_ffff_f000;
    let of_guest = registers::par_el1();
    // SAFETY: the walk reads the guest's tables and writes PAR_EL1, which is put back below.
    unsafe {
        core::arch::asm!(
            "at s1e1r, {address}", "isb", address = in(reg) address,
            options(nostack, preserves_flags)
        );
    }
    let found = registers::par_el1();
    registers::set_par_el1(of_guest);
    (found & FAILED == 0).then(|| Gpa::new(found & PAGE | address & 0xfff))
}

fn register_write(syndrome: u64) -> Exit {
    let field = |first: u32, bits: u32| syndrome >> first & ((1 << bits) - 1);
    let (op0, op2, op1, crn, crm) =
        (field(20, 2), field(17, 3), field(14, 3), field(10, 4), field(1, 4));
    let register = crate::trapped::number(op0, op1, crn, crm, op2);
    Exit::RegisterWrite { register, from: field(5, 5) as usize }
}
