//! The registers whose writes HCR_EL2.TVM traps: each write is made as the guest asked for it. The
//! traps are here for the time that they give this program: a kernel writes some of them whenever it
//! changes from one process to another.

use crate::registers;

/// A register's name as one number.
pub(crate) const fn number(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

const SCTLR: u64 = number(3, 0, 1, 0, 0);
const TTBR0: u64 = number(3, 0, 2, 0, 0);
const TTBR1: u64 = number(3, 0, 2, 0, 1);
const TCR: u64 = number(3, 0, 2, 0, 2);
const AFSR0: u64 = number(3, 0, 5, 1, 0);
const AFSR1: u64 = number(3, 0, 5, 1, 1);
const ESR: u64 = number(3, 0, 5, 2, 0);
const FAR: u64 = number(3, 0, 6, 0, 0);
const MAIR: u64 = number(3, 0, 10, 2, 0);
const AMAIR: u64 = number(3, 0, 10, 3, 0);
const CONTEXTIDR: u64 = number(3, 0, 13, 0, 1);

/// There is no such register among those.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotTrapped;

/// Makes the guest's write.
pub(crate) fn write(register: u64, value: u64) -> Result<(), NotTrapped> {
    match register {
        SCTLR => registers::set_sctlr_el1(value),
        TTBR0 => registers::set_ttbr0_el1(value),
        TTBR1 => registers::set_ttbr1_el1(value),
        TCR => registers::set_tcr_el1(value),
        AFSR0 => registers::set_afsr0_el1(value),
        AFSR1 => registers::set_afsr1_el1(value),
        ESR => registers::set_esr_el1(value),
        FAR => registers::set_far_el1(value),
        MAIR => registers::set_mair_el1(value),
        AMAIR => registers::set_amair_el1(value),
        CONTEXTIDR => registers::set_contextidr_el1(value),
        _ => return Err(NotTrapped),
    }
    Ok(())
}
