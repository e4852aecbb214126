//! The A extension. Everything that stores is a compare-exchange of the host, so guests of several
//! harts, and those outside the guest, see real atomics. The host's compare-exchange is sequentially
//! consistent, which is more than any `aq` and `rl` ask for.

use std::sync::atomic::{Ordering, fence};

use super::execute::{Core, Flow, Reservation, extend};
use super::op::{Kind, Op};
use super::{Exit, Gpa};
use crate::bus::{Bus, Width};

/// The width that an atomic's `funct3`, kept as its immediate, names.
const fn width(op: Op) -> Width {
    if op.imm == 2 { Width::Word } else { Width::Double }
}

/// Zero-extended, the way a [`Bus`] passes values.
const fn truncate(value: u64, width: Width) -> u64 {
    match width {
        Width::Word => value & 0xffff_ffff,
        _ => value,
    }
}

/// Sign-extended, the way registers hold values.
const fn sign_extend(value: u64, width: Width) -> u64 {
    match width {
        Width::Word => extend(value, 32),
        _ => value,
    }
}

impl Core {
    pub(super) fn atomic<B: Bus>(&mut self, op: Op, bus: &mut B) -> Result<Flow, Exit> {
        let at = Gpa::new(self.x[usize::from(op.rs1)]);
        if !at.get().is_multiple_of(width(op).bytes()) {
            return Err(Exit::Misaligned { address: at });
        }
        let value = match op.kind {
            Kind::Lr => self.load_reserved(at, width(op), bus)?,
            Kind::Sc => self.store_conditional(op, at, bus)?,
            _ => self.read_modify_write(op, at, bus)?,
        };
        self.x[usize::from(op.rd)] = value;
        Ok(Flow::Next)
    }

    fn load_reserved<B: Bus>(&mut self, gpa: Gpa, width: Width, bus: &mut B) -> Result<u64, Exit> {
        let value = bus.load(gpa, width)?;
        // LR may carry `aq`. Partner: the compare-exchange of a releasing SC or AMO.
        fence(Ordering::Acquire);
        self.reservation = Some(Reservation { gpa, width, value });
        Ok(sign_extend(value, width))
    }

    /// Stores if memory still holds what the LR saw: 0, else 1. A value that went away and came
    /// back goes unnoticed; guests that mind use a counter, as they do on other machines.
    fn store_conditional<B: Bus>(&mut self, op: Op, at: Gpa, bus: &mut B) -> Result<u64, Exit> {
        let width = width(op);
        let mine = self.reservation.filter(|seen| seen.gpa == at && seen.width == width);
        let stored = match mine {
            Some(Reservation { value, .. }) => {
                let new = truncate(self.x[usize::from(op.rs2)], width);
                bus.compare_exchange(at, width, value, new)? == value
            }
            None => false,
        };
        self.reservation = None;
        Ok(u64::from(!stored))
    }

    fn read_modify_write<B: Bus>(&mut self, op: Op, at: Gpa, bus: &mut B) -> Result<u64, Exit> {
        let width = width(op);
        let operand = sign_extend(self.x[usize::from(op.rs2)], width);
        let mut old = bus.load(at, width)?;
        loop {
            let new = truncate(combine(op.kind, sign_extend(old, width), operand), width);
            let found = bus.compare_exchange(at, width, old, new)?;
            if found == old {
                return Ok(sign_extend(old, width));
            }
            old = found;
        }
    }
}

/// What an AMO stores. Sign-extended words compare as the words do, unsigned as well.
fn combine(kind: Kind, old: u64, operand: u64) -> u64 {
    match kind {
        Kind::Amoadd => old.wrapping_add(operand),
        Kind::Amoxor => old ^ operand,
        Kind::Amoand => old & operand,
        Kind::Amoor => old | operand,
        Kind::Amomin => old.cast_signed().min(operand.cast_signed()).cast_unsigned(),
        Kind::Amomax => old.cast_signed().max(operand.cast_signed()).cast_unsigned(),
        Kind::Amominu => old.min(operand),
        Kind::Amomaxu => old.max(operand),
        _ => operand,
    }
}
