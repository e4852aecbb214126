//! Instruction words to [`Op`]s. Chapter and table: "RV32/64G Instruction Set Listings".

use super::op::{Kind, Op, SINK};

/// Decodes one word. Every word has a form; one that is no instruction becomes
/// [`Kind::Illegal`].
pub(super) fn decode(word: u32) -> Op {
    let word = Word(word);
    let decoded = match word.opcode() {
        0x03 => word.load(),
        0x0f => word.fence(),
        0x13 => word.immediate(),
        0x17 => Some(word.form_u(Kind::Auipc)),
        0x1b => word.immediate_w(),
        0x23 => word.store(),
        0x2f => word.atomic(),
        0x33 => word.register(),
        0x37 => Some(word.form_u(Kind::Add)),
        0x3b => word.register_w(),
        0x63 => word.branch(),
        0x67 => (word.funct3() == 0).then(|| word.form_i(Kind::Jalr)),
        0x6f => Some(word.jump()),
        0x73 => word.system(),
        _ => None,
    };
    decoded.unwrap_or(word.illegal())
}

#[derive(Clone, Copy)]
struct Word(u32);

impl Word {
    const fn bits(self, low: u32, count: u32) -> u32 {
        self.0 >> low & ((1 << count) - 1)
    }

    const fn opcode(self) -> u32 {
        self.bits(0, 7)
    }

    const fn funct3(self) -> u32 {
        self.bits(12, 3)
    }

    const fn funct7(self) -> u32 {
        self.bits(25, 7)
    }

    const fn register_at(self, low: u32) -> u8 {
        (self.0 >> low & 31) as u8
    }

    const fn rd(self) -> u8 {
        match self.register_at(7) {
            0 => SINK,
            number => number,
        }
    }

    const fn rs1(self) -> u8 {
        self.register_at(15)
    }

    const fn rs2(self) -> u8 {
        self.register_at(20)
    }

    const fn signed(self) -> i32 {
        self.0.cast_signed()
    }

    const fn form_r(self, kind: Kind) -> Op {
        Op { kind, rd: self.rd(), rs1: self.rs1(), rs2: self.rs2(), imm: 0 }
    }

    const fn form_i(self, kind: Kind) -> Op {
        Op { kind, rd: self.rd(), rs1: self.rs1(), rs2: 0, imm: self.signed() >> 20 }
    }

    const fn form_u(self, kind: Kind) -> Op {
        Op { kind, rd: self.rd(), rs1: 0, rs2: 0, imm: self.signed() & !0xfff }
    }

    /// A shift by a constant of `bits` bits; what is above them says which shift.
    const fn form_shift(self, kind: Kind, bits: u32) -> Op {
        let imm = self.bits(20, bits).cast_signed();
        Op { kind, rd: self.rd(), rs1: self.rs1(), rs2: 0, imm }
    }

    const fn illegal(self) -> Op {
        Op { kind: Kind::Illegal, rd: SINK, rs1: 0, rs2: 0, imm: self.signed() }
    }

    fn load(self) -> Option<Op> {
        use Kind::{Lb, Lbu, Ld, Lh, Lhu, Lw, Lwu};
        let kind = [Lb, Lh, Lw, Ld, Lbu, Lhu, Lwu].get(self.funct3() as usize)?;
        Some(self.form_i(*kind))
    }

    fn store(self) -> Option<Op> {
        let kind = [Kind::Sb, Kind::Sh, Kind::Sw, Kind::Sd].get(self.funct3() as usize)?;
        let imm = self.signed() >> 25 << 5 | self.bits(7, 5).cast_signed();
        Some(Op { kind: *kind, rd: SINK, rs1: self.rs1(), rs2: self.rs2(), imm })
    }

    fn branch(self) -> Option<Op> {
        let kind = match self.funct3() {
            0 => Kind::Beq,
            1 => Kind::Bne,
            4 => Kind::Blt,
            5 => Kind::Bge,
            6 => Kind::Bltu,
            7 => Kind::Bgeu,
            _ => return None,
        };
        let low = self.bits(8, 4) << 1 | self.bits(25, 6) << 5 | self.bits(7, 1) << 11;
        let imm = self.signed() >> 31 << 12 | low.cast_signed();
        Some(Op { kind, rd: SINK, rs1: self.rs1(), rs2: self.rs2(), imm })
    }

    fn jump(self) -> Op {
        let low = self.bits(21, 10) << 1 | self.bits(20, 1) << 11 | self.bits(12, 8) << 12;
        let imm = self.signed() >> 31 << 20 | low.cast_signed();
        Op { kind: Kind::Jal, rd: self.rd(), rs1: 0, rs2: 0, imm }
    }

    fn immediate(self) -> Option<Op> {
        let kind = match self.funct3() {
            0 => Kind::Add,
            2 => Kind::Slt,
            3 => Kind::Sltu,
            4 => Kind::Xor,
            6 => Kind::Or,
            7 => Kind::And,
            _ => return self.shift(),
        };
        Some(self.form_i(kind))
    }

    fn shift(self) -> Option<Op> {
        let kind = match (self.funct3(), self.bits(26, 6)) {
            (1, 0x00) => Kind::Sll,
            (5, 0x00) => Kind::Srl,
            (5, 0x10) => Kind::Sra,
            _ => return None,
        };
        Some(self.form_shift(kind, 6))
    }

    fn immediate_w(self) -> Option<Op> {
        let kind = match (self.funct3(), self.funct7()) {
            (0, _) => return Some(self.form_i(Kind::Addw)),
            (1, 0x00) => Kind::Sllw,
            (5, 0x00) => Kind::Srlw,
            (5, 0x20) => Kind::Sraw,
            _ => return None,
        };
        Some(self.form_shift(kind, 5))
    }

    fn register(self) -> Option<Op> {
        use Kind::{
            Add, And, Div, Divu, Mul, Mulh, Mulhsu, Mulhu, Or, Rem, Remu, Sll, Slt, Sltu, Sra, Srl,
            Sub, Xor,
        };
        let row = self.funct3() as usize;
        let kind = match self.funct7() {
            0x00 => [Add, Sll, Slt, Sltu, Xor, Srl, Or, And][row],
            0x01 => [Mul, Mulh, Mulhsu, Mulhu, Div, Divu, Rem, Remu][row],
            0x20 if row == 0 => Sub,
            0x20 if row == 5 => Sra,
            _ => return None,
        };
        Some(self.form_r(kind))
    }

    fn register_w(self) -> Option<Op> {
        let kind = match (self.funct7(), self.funct3()) {
            (0x00, 0) => Kind::Addw,
            (0x00, 1) => Kind::Sllw,
            (0x00, 5) => Kind::Srlw,
            (0x20, 0) => Kind::Subw,
            (0x20, 5) => Kind::Sraw,
            (0x01, 0) => Kind::Mulw,
            (0x01, 4) => Kind::Divw,
            (0x01, 5) => Kind::Divuw,
            (0x01, 6) => Kind::Remw,
            (0x01, 7) => Kind::Remuw,
            _ => return None,
        };
        Some(self.form_r(kind))
    }

    fn fence(self) -> Option<Op> {
        match self.funct3() {
            0 => Some(self.form_r(Kind::Fence)),
            1 => Some(self.form_r(Kind::FenceI)),
            _ => None,
        }
    }

    fn atomic(self) -> Option<Op> {
        let width = self.funct3();
        let kind = match self.bits(27, 5) {
            0x00 => Kind::Amoadd,
            0x01 => Kind::Amoswap,
            0x02 if self.rs2() == 0 => Kind::Lr,
            0x03 => Kind::Sc,
            0x04 => Kind::Amoxor,
            0x08 => Kind::Amoor,
            0x0c => Kind::Amoand,
            0x10 => Kind::Amomin,
            0x14 => Kind::Amomax,
            0x18 => Kind::Amominu,
            0x1c => Kind::Amomaxu,
            _ => return None,
        };
        let op = Op { imm: width.cast_signed(), ..self.form_r(kind) };
        matches!(width, 2 | 3).then_some(op)
    }

    fn system(self) -> Option<Op> {
        match self.0 {
            0x0000_0073 => Some(self.form_r(Kind::Ecall)),
            0x0010_0073 => Some(self.form_r(Kind::Ebreak)),
            0x1050_0073 => Some(self.form_r(Kind::Wfi)),
            _ => self.counter(),
        }
    }

    /// CSRRS and CSRRC, and their immediate forms, with a zero operand: they only read.
    fn counter(self) -> Option<Op> {
        let only_reads = matches!(self.funct3(), 2 | 3 | 6 | 7) && self.rs1() == 0;
        let kind = match self.bits(20, 12) {
            0xc00 | 0xc02 => Kind::Instret,
            0xc01 => Kind::Time,
            _ => return None,
        };
        only_reads.then(|| Op { rs2: 0, ..self.form_r(kind) })
    }
}
