//! The store that is emulated: `mov [base], source`, 64 bits, without index or displacement.

use crate::registers::Registers;
use vellum_pte::Gpa;
use vm::{GuestMemory, Store};

/// REX prefixes: 0100WRXB. W: 64 bits; R and B: the high bits of the two registers.
const REX_W: u8 = 0x48;
const REX_W_MASK: u8 = 0xfa;
/// `MOV r/m64, r64`.
const MOV: u8 = 0x89;
const LENGTH: u64 = 3;
/// ModRM names an index byte, or an address relative to the instruction, in place of a base.
const INDEXED: u8 = 4;
const RELATIVE: u8 = 5;

/// The store that stands at `rip`, an address of the guest's that is its physical one.
#[must_use]
pub fn decode(registers: &Registers, rip: u64, memory: GuestMemory) -> Option<Store> {
    let [rex, opcode, modrm, ..] = memory.read(Gpa::new(rip)).ok()?.to_le_bytes();
    if rex & REX_W_MASK != REX_W || opcode != MOV {
        return None;
    }
    let (mode, source, base) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    if mode != 0 || base == INDEXED || base == RELATIVE {
        return None;
    }
    let source = usize::from(source | (rex & 4) << 1);
    let base = usize::from(base | (rex & 1) << 3);
    Some(Store {
        gpa: Gpa::new(registers.0[base]),
        value: registers.0[source],
        width: 8,
        length: LENGTH,
    })
}
