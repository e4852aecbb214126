//! The loop of the interpreter, and the instructions that guests execute most. The others are in
//! [`super::rare`], so that this loop stays small.

use vellum_pte::{Gpa, PAGE_SIZE};

use super::code::CodePage;
use super::emulate::Emulator;
use super::op::{Kind, Op, SINK};
use super::{Exit, HartState};
use crate::bus::{Bus, BusError, Width};
use crate::emulation::EmulatedStore;

/// A hart's own state.
#[derive(Debug)]
pub(super) struct Core {
    /// `x0` to `x31`, then [`SINK`]. As long as a `u8` reaches, so that an index needs no check.
    pub(super) x: [u64; 256],
    /// Up to date outside [`Core::run`].
    pub(super) pc: u64,
    pub(super) instret: u64,
    pub(super) id: u64,
    pub(super) time: u64,
    pub(super) reservation: Option<Reservation>,
}

/// What the last LR saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reservation {
    pub(super) gpa: Gpa,
    pub(super) width: Width,
    pub(super) value: u64,
}

/// Why [`Core::run`] came back without an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// The next instruction is on another page, the page is stale, or the budget is used up.
    Page,
    /// `fence.i`: what was decoded must go.
    Code,
}

/// What comes after an instruction that retired. Two of these are most of what guests do, and the
/// loop tells them apart by one comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// The next one.
    Next,
    /// The one at this address, a multiple of four.
    Jump(u64),
    /// The next one, after the number of instructions retired so far went to this register.
    Count(u8),
}

/// Why the loop ends at an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// An exit, and nothing of the instruction has happened.
    Before(Exit),
    /// An exit behind the instruction.
    Behind(Exit),
    /// The next one is of code that must be decoded anew.
    Refetch,
}

impl From<Exit> for Stop {
    fn from(exit: Exit) -> Self {
        Self::Before(exit)
    }
}

impl From<BusError> for Stop {
    fn from(error: BusError) -> Self {
        Self::Before(error.into())
    }
}

/// The low `bits` bits of `value`, sign-extended.
#[inline(always)]
pub(super) const fn extend(value: u64, bits: u32) -> u64 {
    (value << (64 - bits)).cast_signed().wrapping_shr(64 - bits).cast_unsigned()
}

/// How many bytes `count` instructions take.
#[inline(always)]
const fn bytes(count: usize) -> u64 {
    4 * count as u64
}

/// Which instruction of its page is at `pc`.
#[inline(always)]
const fn index(pc: u64) -> usize {
    ((pc & (PAGE_SIZE - 1)) / 4) as usize
}

impl Core {
    pub(super) fn new(state: &HartState) -> Self {
        let mut x = [0; 256];
        x[1..32].copy_from_slice(&state.x);
        Self { x, pc: state.pc, instret: state.instret, id: state.id, time: 0, reservation: None }
    }

    pub(super) fn save(&self) -> HartState {
        let mut x = [0; 31];
        x.copy_from_slice(&self.x[1..usize::from(SINK)]);
        HartState { id: self.id, pc: self.pc, instret: self.instret, x }
    }

    /// Runs in `page`, where the program counter is, until it leaves the page, an exit occurs, or
    /// a taken branch finds the page stale or `end` instructions retired. Instructions are counted
    /// a straight run at a time.
    pub(super) fn run<B: Bus>(
        &mut self,
        page: &CodePage,
        bus: &mut B,
        end: u64,
    ) -> Result<Left, Exit> {
        let base = page.gfn.gpa().get();
        let mut first = index(self.pc);
        let mut at = first;
        while let Some(&op) = page.ops.get(at) {
            let flow = match self.step(op, base + bytes(at), bus) {
                Ok(flow) => flow,
                Err(Stop::Before(Exit::Fault(BusError::Emulate(_)))) => {
                    self.leave(base, first, at);
                    return self.emulate(op, bus);
                }
                Err(stop) => return self.stop(base, first, at, stop),
            };
            at += 1;
            match flow {
                Flow::Next => {}
                Flow::Jump(target) => {
                    self.instret += (at - first) as u64;
                    self.pc = target;
                    let stays = target.wrapping_sub(base) < PAGE_SIZE;
                    if !stays || bus.epoch() != page.epoch || self.instret >= end {
                        return Ok(Left::Page);
                    }
                    first = index(target);
                    at = first;
                }
                Flow::Count(rd) => {
                    self.x[usize::from(rd)] = self.instret + (at - 1 - first) as u64;
                }
            }
        }
        self.leave(base, first, at);
        Ok(Left::Page)
    }

    /// Leaves the loop at or behind the instruction `at`.
    #[cold]
    fn stop(&mut self, base: u64, first: usize, at: usize, why: Stop) -> Result<Left, Exit> {
        let (at, why) = match why {
            Stop::Before(exit) => (at, Err(exit)),
            Stop::Behind(exit) => (at + 1, Err(exit)),
            Stop::Refetch => (at + 1, Ok(Left::Code)),
        };
        self.leave(base, first, at);
        why
    }

    /// Brings counter and program counter up to date: the instructions from `first` to before `at`
    /// have retired.
    fn leave(&mut self, base: u64, first: usize, at: usize) {
        self.instret += (at - first) as u64;
        self.pc = base.wrapping_add(bytes(at));
    }

    /// Does the instruction at the program counter, whose store is not the processor's to make, in
    /// place of the processor. After an error nothing of it has happened.
    #[cold]
    fn emulate<B: Bus>(&mut self, op: Op, bus: &mut B) -> Result<Left, Exit> {
        // Machines have far fewer harts.
        let hart = u32::try_from(self.id).unwrap_or(u32::MAX);
        let by = EmulatedStore { hart, pc: Gpa::new(self.pc) };
        match self.step(op, self.pc, &mut Emulator { bus, by }) {
            // No instruction that stores jumps.
            Ok(_) => {
                self.instret += 1;
                self.pc = self.pc.wrapping_add(bytes(1));
                Ok(Left::Page)
            }
            Err(Stop::Before(exit) | Stop::Behind(exit)) => Err(exit),
            Err(Stop::Refetch) => Ok(Left::Code),
        }
    }

    /// Executes `op`, which is at `pc`. After an error nothing of it has happened.
    #[inline(always)]
    fn step<B: Bus>(&mut self, op: Op, pc: u64, bus: &mut B) -> Result<Flow, Stop> {
        let imm = i64::from(op.imm).cast_unsigned();
        let a = self.x[usize::from(op.rs1)];
        let r = self.x[usize::from(op.rs2)];
        let b = r.wrapping_add(imm);
        let at = Gpa::new(a.wrapping_add(imm));
        let value = match op.kind {
            Kind::Add => a.wrapping_add(b),
            Kind::Sub => a.wrapping_sub(b),
            Kind::And => a & b,
            Kind::Or => a | b,
            Kind::Xor => a ^ b,
            Kind::Sll => a << (b & 63),
            Kind::Srl => a >> (b & 63),
            Kind::Sra => (a.cast_signed() >> (b & 63)).cast_unsigned(),
            Kind::Slt => u64::from(a.cast_signed() < b.cast_signed()),
            Kind::Sltu => u64::from(a < b),
            Kind::Addw => extend(a.wrapping_add(b), 32),
            Kind::Mul => a.wrapping_mul(b),
            Kind::Auipc => pc.wrapping_add(imm),
            Kind::Lb => extend(bus.load(at, Width::Byte)?, 8),
            Kind::Lh => extend(bus.load(at, Width::Half)?, 16),
            Kind::Lw => extend(bus.load(at, Width::Word)?, 32),
            Kind::Ld => bus.load(at, Width::Double)?,
            Kind::Lbu => bus.load(at, Width::Byte)?,
            Kind::Lhu => bus.load(at, Width::Half)?,
            Kind::Lwu => bus.load(at, Width::Word)?,
            Kind::Sb => return store(bus, at, Width::Byte, r & 0xff),
            Kind::Sh => return store(bus, at, Width::Half, r & 0xffff),
            Kind::Sw => return store(bus, at, Width::Word, r & 0xffff_ffff),
            Kind::Sd => return store(bus, at, Width::Double, r),
            Kind::Beq => return branch(a == r, pc, imm),
            Kind::Bne => return branch(a != r, pc, imm),
            Kind::Blt => return branch(a.cast_signed() < r.cast_signed(), pc, imm),
            Kind::Bge => return branch(a.cast_signed() >= r.cast_signed(), pc, imm),
            Kind::Bltu => return branch(a < r, pc, imm),
            Kind::Bgeu => return branch(a >= r, pc, imm),
            Kind::Jal => return self.link(op, pc, pc.wrapping_add(imm)),
            Kind::Jalr => return self.link(op, pc, at.get() & !1),
            _ => return self.rare(op, pc, bus),
        };
        self.x[usize::from(op.rd)] = value;
        Ok(Flow::Next)
    }

    #[inline(always)]
    fn link(&mut self, op: Op, pc: u64, target: u64) -> Result<Flow, Stop> {
        let flow = jump(target)?;
        self.x[usize::from(op.rd)] = pc.wrapping_add(4);
        Ok(flow)
    }
}

#[inline(always)]
fn store<B: Bus>(bus: &mut B, at: Gpa, width: Width, value: u64) -> Result<Flow, Stop> {
    bus.store(at, width, value)?;
    Ok(Flow::Next)
}

#[inline(always)]
fn branch(taken: bool, pc: u64, imm: u64) -> Result<Flow, Stop> {
    if taken { jump(pc.wrapping_add(imm)) } else { Ok(Flow::Next) }
}

#[inline(always)]
fn jump(target: u64) -> Result<Flow, Stop> {
    if target.is_multiple_of(4) {
        Ok(Flow::Jump(target))
    } else {
        Err(Exit::Misaligned { address: Gpa::new(target) }.into())
    }
}
