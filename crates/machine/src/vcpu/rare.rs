//! The instructions that guests execute less often.

use std::sync::atomic::{Ordering, fence};

use super::execute::{Core, Flow, Stop, extend};
use super::op::{Kind, Op};
use super::{Exit, Gpa};
use crate::bus::Bus;

impl Core {
    /// Executes what [`Core::step`] does not.
    #[inline(never)]
    pub(super) fn rare<B: Bus>(&mut self, op: Op, pc: u64, bus: &mut B) -> Result<Flow, Stop> {
        let a = self.x[usize::from(op.rs1)];
        let b = self.x[usize::from(op.rs2)].wrapping_add(i64::from(op.imm).cast_unsigned());
        let value = match op.kind {
            Kind::Mulh => high(a.cast_signed().into(), b.cast_signed().into()),
            Kind::Mulhsu => high(a.cast_signed().into(), b.into()),
            Kind::Mulhu => ((u128::from(a) * u128::from(b)) >> 64) as u64,
            Kind::Div => signed(a, b, -1, i64::wrapping_div),
            Kind::Divu => a.checked_div(b).unwrap_or(u64::MAX),
            Kind::Rem => signed(a, b, a.cast_signed(), i64::wrapping_rem),
            Kind::Remu => a.checked_rem(b).unwrap_or(a),
            Kind::Instret => return Ok(Flow::Count(op.rd)),
            Kind::Time => self.time,
            _ => match word_form(op.kind, low(a), low(b)) {
                Some(word) => extend(word.into(), 32),
                None => return self.system(op, pc, bus),
            },
        };
        self.x[usize::from(op.rd)] = value;
        Ok(Flow::Next)
    }

    fn system<B: Bus>(&mut self, op: Op, pc: u64, bus: &mut B) -> Result<Flow, Stop> {
        match op.kind {
            Kind::Fence => {
                // A guest's fence may order a store before a later load, which on the host only a
                // full fence does. Partner: the same fence on another hart.
                fence(Ordering::SeqCst);
                Ok(Flow::Next)
            }
            Kind::FenceI => Err(Stop::Refetch),
            Kind::Ecall => Err(Exit::Ecall.into()),
            Kind::Ebreak => Err(Exit::Breakpoint.into()),
            Kind::Wfi => Err(Stop::Behind(Exit::Wfi)),
            Kind::Illegal => {
                Err(Exit::Illegal { pc: Gpa::new(pc), word: op.imm.cast_unsigned() }.into())
            }
            _ => Ok(self.atomic(op, bus)?),
        }
    }
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// The upper half of a product.
const fn high(a: i128, b: i128) -> u64 {
    (a.wrapping_mul(b) >> 64 & 0xffff_ffff_ffff_ffff) as u64
}

/// A signed division, which gives `by_zero` where there is none. The overflow wraps, as the
/// specification of M wants.
fn signed(a: u64, b: u64, by_zero: i64, divide: fn(i64, i64) -> i64) -> u64 {
    let (a, b) = (a.cast_signed(), b.cast_signed());
    if b == 0 { by_zero.cast_unsigned() } else { divide(a, b).cast_unsigned() }
}

fn signed_word(a: u32, b: u32, by_zero: i32, divide: fn(i32, i32) -> i32) -> u32 {
    let (a, b) = (a.cast_signed(), b.cast_signed());
    if b == 0 { by_zero.cast_unsigned() } else { divide(a, b).cast_unsigned() }
}

/// The 32-bit form of an operation, or `None` if `kind` is not one.
fn word_form(kind: Kind, a: u32, b: u32) -> Option<u32> {
    Some(match kind {
        Kind::Subw => a.wrapping_sub(b),
        Kind::Sllw => a.wrapping_shl(b),
        Kind::Srlw => a.wrapping_shr(b),
        Kind::Sraw => a.cast_signed().wrapping_shr(b).cast_unsigned(),
        Kind::Mulw => a.wrapping_mul(b),
        Kind::Divw => signed_word(a, b, -1, i32::wrapping_div),
        Kind::Divuw => a.checked_div(b).unwrap_or(u32::MAX),
        Kind::Remw => signed_word(a, b, a.cast_signed(), i32::wrapping_rem),
        Kind::Remuw => a.checked_rem(b).unwrap_or(a),
        _ => return None,
    })
}
