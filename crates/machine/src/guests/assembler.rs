//! A small assembler: methods are mnemonics, and [`Label`]s are places.
//!
//! ```
//! use vellum_machine::guests::assembler::Assembler;
//! use vellum_machine::vcpu::Reg;
//!
//! let mut asm = Assembler::new();
//! let again = asm.here();
//! asm.addi(Reg::T0, Reg::T0, 1);
//! asm.bltu(Reg::T0, Reg::A0, again);
//! asm.ecall();
//! assert_eq!(asm.finish()?, [0x0012_8293, 0xfea2_eee3, 0x0000_0073]);
//! # Ok::<(), vellum_machine::guests::assembler::AssembleError>(())
//! ```
//!
//! Mistakes (an immediate or a branch out of reach, a label without a place) are kept and reported
//! by [`Assembler::finish`], so that programs read like programs.

#[cfg(test)]
mod tests;

use crate::vcpu::Reg;

/// A place in a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// Why a program does not assemble.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AssembleError {
    /// A label is used and has no place.
    #[error("word {at} refers to a label without a place")]
    Unbound {
        /// Which word of the program.
        at: usize,
    },
    /// An immediate, or the way to a label, does not fit its instruction.
    #[error("the immediate {value} of word {at} does not fit")]
    Reach {
        /// Which word of the program.
        at: usize,
        /// The immediate.
        value: i64,
    },
}

#[derive(Clone, Copy)]
enum Form {
    Branch,
    Jump,
    /// `auipc` and `addi`.
    Address,
}

struct Use {
    at: usize,
    label: Label,
    form: Form,
}

/// A program being written.
#[derive(Default)]
pub struct Assembler {
    words: Vec<u32>,
    places: Vec<Option<usize>>,
    uses: Vec<Use>,
    error: Option<AssembleError>,
}

const fn field(reg: Reg, low: u32) -> u32 {
    (reg.number() as u32) << low
}

/// The low `count` bits of `value >> low`.
const fn bits(value: i64, low: u32, count: u32) -> u32 {
    ((value >> low).cast_unsigned() & ((1 << count) - 1) & 0xffff_ffff) as u32
}

const fn form_r(base: u32, rd: Reg, rs1: Reg, rs2: Reg) -> u32 {
    base | field(rd, 7) | field(rs1, 15) | field(rs2, 20)
}

const fn branch_bits(offset: i64) -> u32 {
    bits(offset, 12, 1) << 31
        | bits(offset, 5, 6) << 25
        | bits(offset, 1, 4) << 8
        | bits(offset, 11, 1) << 7
}

const fn jump_bits(offset: i64) -> u32 {
    bits(offset, 20, 1) << 31
        | bits(offset, 1, 10) << 21
        | bits(offset, 11, 1) << 20
        | bits(offset, 12, 8) << 12
}

/// Splits a number into the immediates of `lui` (or `auipc`) and `addi`, whose sum it is.
const fn split(value: i64) -> (u32, i64) {
    let low = (value << 52) >> 52;
    (bits(value - low, 12, 20), low)
}

const fn fits(value: i64, width: u32) -> bool {
    value >= -(1 << (width - 1)) && value < 1 << (width - 1)
}

/// Labels, data, and what takes more than one instruction.
impl Assembler {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A label whose place comes later.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// Gives `label` this place.
    pub fn bind(&mut self, label: Label) {
        self.places[label.0] = Some(self.words.len());
    }

    /// A label for this place.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Puts in a word as it is.
    pub fn word(&mut self, word: u32) {
        self.words.push(word);
    }

    /// Puts in text, a zero behind it, and zeros up to the next word.
    pub fn text(&mut self, text: &str) -> Label {
        let label = self.here();
        for chunk in text.as_bytes().chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u32::from_le_bytes(word));
        }
        self.word(0);
        label
    }

    /// The words, with labels resolved.
    ///
    /// # Errors
    /// The first mistake.
    pub fn finish(mut self) -> Result<Vec<u32>, AssembleError> {
        for used in std::mem::take(&mut self.uses) {
            self.resolve(&used)?;
        }
        match self.error {
            None => Ok(self.words),
            Some(error) => Err(error),
        }
    }

    fn resolve(&mut self, used: &Use) -> Result<(), AssembleError> {
        let at = used.at;
        let place = self.places[used.label.0].ok_or(AssembleError::Unbound { at })?;
        let offset = (place as i64 - at as i64) * 4;
        let (reach, field) = match used.form {
            Form::Branch => (13, branch_bits(offset)),
            Form::Jump => (21, jump_bits(offset)),
            Form::Address => (31, split(offset).0 << 12),
        };
        if !fits(offset, reach) {
            return Err(AssembleError::Reach { at, value: offset });
        }
        self.words[at] |= field;
        if matches!(used.form, Form::Address) {
            self.words[at + 1] |= bits(split(offset).1, 0, 12) << 20;
        }
        Ok(())
    }

    fn refer(&mut self, label: Label, form: Form) {
        self.uses.push(Use { at: self.words.len(), label, form });
    }

    fn expect(&mut self, fits: bool, value: i64) {
        if !fits {
            let at = self.words.len();
            self.error.get_or_insert(AssembleError::Reach { at, value });
        }
    }

    fn form_i(&mut self, base: u32, rd: Reg, rs1: Reg, imm: i64) {
        self.expect(fits(imm, 12), imm);
        self.word(form_r(base, rd, rs1, Reg::ZERO) | bits(imm, 0, 12) << 20);
    }

    fn form_s(&mut self, base: u32, rs2: Reg, rs1: Reg, imm: i64) {
        self.expect(fits(imm, 12), imm);
        let imm = bits(imm, 5, 7) << 25 | bits(imm, 0, 5) << 7;
        self.word(form_r(base, Reg::ZERO, rs1, rs2) | imm);
    }

    fn shift(&mut self, base: u32, rd: Reg, rs1: Reg, by: u32) {
        self.expect(by < 64, by.into());
        self.word(form_r(base, rd, rs1, Reg::ZERO) | (by & 63) << 20);
    }

    fn branch(&mut self, base: u32, rs1: Reg, rs2: Reg, to: Label) {
        self.refer(to, Form::Branch);
        self.word(form_r(base, Reg::ZERO, rs1, rs2));
    }

    /// `rd = value`, in as many instructions as it takes.
    pub fn li(&mut self, rd: Reg, value: i64) {
        let (high, low) = split(value);
        if fits(value, 12) {
            self.addi(rd, Reg::ZERO, value);
        } else if fits(value, 32) {
            self.word(0x37 | field(rd, 7) | high << 12);
            self.form_i(0x1b, rd, rd, low);
        } else {
            self.li(rd, value.wrapping_sub(low) >> 12);
            self.slli(rd, rd, 12);
            self.addi(rd, rd, low);
        }
    }

    /// `rd` = the address of `label`.
    pub fn la(&mut self, rd: Reg, label: Label) {
        self.refer(label, Form::Address);
        self.word(0x17 | field(rd, 7));
        self.addi(rd, rd, 0);
    }

    /// `rd = rs`.
    pub fn mv(&mut self, rd: Reg, rs: Reg) {
        self.addi(rd, rs, 0);
    }

    /// Jumps.
    pub fn j(&mut self, to: Label) {
        self.jal(Reg::ZERO, to);
    }

    /// Calls, with the return address in `ra`.
    pub fn call(&mut self, to: Label) {
        self.jal(Reg::RA, to);
    }

    /// Returns from a call.
    pub fn ret(&mut self) {
        self.form_i(0x67, Reg::ZERO, Reg::RA, 0);
    }

    /// Branches if `rs` is zero.
    pub fn beqz(&mut self, rs: Reg, to: Label) {
        self.beq(rs, Reg::ZERO, to);
    }

    /// Branches if `rs` is not zero.
    pub fn bnez(&mut self, rs: Reg, to: Label) {
        self.bne(rs, Reg::ZERO, to);
    }

    /// `rd` = the smaller of two unsigned numbers; `rd` may be `a`, not `b`.
    pub fn min_unsigned(&mut self, rd: Reg, a: Reg, b: Reg) {
        let done = self.label();
        self.mv(rd, a);
        self.bltu(rd, b, done);
        self.mv(rd, b);
        self.bind(done);
    }
}

/// One instruction each; the mnemonics are the manual's.
impl Assembler {
    /// `add rd, rs1, rs2`.
    pub fn add(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x33, rd, rs1, rs2));
    }

    /// `sub rd, rs1, rs2`.
    pub fn sub(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x4000_0033, rd, rs1, rs2));
    }

    /// `sll rd, rs1, rs2`.
    pub fn sll(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x1033, rd, rs1, rs2));
    }

    /// `srl rd, rs1, rs2`.
    pub fn srl(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x5033, rd, rs1, rs2));
    }

    /// `and rd, rs1, rs2`.
    pub fn and(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x7033, rd, rs1, rs2));
    }

    /// `or rd, rs1, rs2`.
    pub fn or(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x6033, rd, rs1, rs2));
    }

    /// `xor rd, rs1, rs2`.
    pub fn xor(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x4033, rd, rs1, rs2));
    }

    /// `sltu rd, rs1, rs2`.
    pub fn sltu(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x3033, rd, rs1, rs2));
    }

    /// `mul rd, rs1, rs2`.
    pub fn mul(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x0200_0033, rd, rs1, rs2));
    }

    /// `mulhu rd, rs1, rs2`.
    pub fn mulhu(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x0200_3033, rd, rs1, rs2));
    }

    /// `divu rd, rs1, rs2`.
    pub fn divu(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x0200_5033, rd, rs1, rs2));
    }

    /// `remu rd, rs1, rs2`.
    pub fn remu(&mut self, rd: Reg, rs1: Reg, rs2: Reg) {
        self.word(form_r(0x0200_7033, rd, rs1, rs2));
    }

    /// `addi rd, rs1, imm`.
    pub fn addi(&mut self, rd: Reg, rs1: Reg, imm: i64) {
        self.form_i(0x13, rd, rs1, imm);
    }

    /// `andi rd, rs1, imm`.
    pub fn andi(&mut self, rd: Reg, rs1: Reg, imm: i64) {
        self.form_i(0x7013, rd, rs1, imm);
    }

    /// `xori rd, rs1, imm`.
    pub fn xori(&mut self, rd: Reg, rs1: Reg, imm: i64) {
        self.form_i(0x4013, rd, rs1, imm);
    }

    /// `ori rd, rs1, imm`.
    pub fn ori(&mut self, rd: Reg, rs1: Reg, imm: i64) {
        self.form_i(0x6013, rd, rs1, imm);
    }

    /// `slli rd, rs1, by`.
    pub fn slli(&mut self, rd: Reg, rs1: Reg, by: u32) {
        self.shift(0x1013, rd, rs1, by);
    }

    /// `srli rd, rs1, by`.
    pub fn srli(&mut self, rd: Reg, rs1: Reg, by: u32) {
        self.shift(0x5013, rd, rs1, by);
    }

    /// `beq rs1, rs2, to`.
    pub fn beq(&mut self, rs1: Reg, rs2: Reg, to: Label) {
        self.branch(0x63, rs1, rs2, to);
    }

    /// `bne rs1, rs2, to`.
    pub fn bne(&mut self, rs1: Reg, rs2: Reg, to: Label) {
        self.branch(0x1063, rs1, rs2, to);
    }

    /// `bltu rs1, rs2, to`.
    pub fn bltu(&mut self, rs1: Reg, rs2: Reg, to: Label) {
        self.branch(0x6063, rs1, rs2, to);
    }

    /// `bgeu rs1, rs2, to`.
    pub fn bgeu(&mut self, rs1: Reg, rs2: Reg, to: Label) {
        self.branch(0x7063, rs1, rs2, to);
    }

    /// `ld rd, offset(base)`.
    pub fn ld(&mut self, rd: Reg, offset: i64, base: Reg) {
        self.form_i(0x3003, rd, base, offset);
    }

    /// `lw rd, offset(base)`.
    pub fn lw(&mut self, rd: Reg, offset: i64, base: Reg) {
        self.form_i(0x2003, rd, base, offset);
    }

    /// `lbu rd, offset(base)`.
    pub fn lbu(&mut self, rd: Reg, offset: i64, base: Reg) {
        self.form_i(0x4003, rd, base, offset);
    }

    /// `sd rs2, offset(base)`.
    pub fn sd(&mut self, rs2: Reg, offset: i64, base: Reg) {
        self.form_s(0x3023, rs2, base, offset);
    }

    /// `sw rs2, offset(base)`.
    pub fn sw(&mut self, rs2: Reg, offset: i64, base: Reg) {
        self.form_s(0x2023, rs2, base, offset);
    }

    /// `sb rs2, offset(base)`.
    pub fn sb(&mut self, rs2: Reg, offset: i64, base: Reg) {
        self.form_s(0x23, rs2, base, offset);
    }

    /// `amoadd.d rd, rs2, (base)`.
    pub fn amoadd_d(&mut self, rd: Reg, rs2: Reg, base: Reg) {
        self.word(form_r(0x302f, rd, base, rs2));
    }

    /// `amoadd.w rd, rs2, (base)`.
    pub fn amoadd_w(&mut self, rd: Reg, rs2: Reg, base: Reg) {
        self.word(form_r(0x202f, rd, base, rs2));
    }

    /// `jal rd, to`.
    pub fn jal(&mut self, rd: Reg, to: Label) {
        self.refer(to, Form::Jump);
        self.word(0x6f | field(rd, 7));
    }

    /// `fence`.
    pub fn fence(&mut self) {
        self.word(0x0ff0_000f);
    }

    /// `fence.i`.
    pub fn fence_i(&mut self) {
        self.word(0x100f);
    }

    /// `ecall`.
    pub fn ecall(&mut self) {
        self.word(0x73);
    }

    /// `ebreak`.
    pub fn ebreak(&mut self) {
        self.word(0x0010_0073);
    }

    /// `wfi`.
    pub fn wfi(&mut self) {
        self.word(0x1050_0073);
    }
}
