//! The compact form of an instruction.

/// An instruction, decoded. Immediate and register forms of an operation are one: its second
/// operand is always `x[rs2] + imm`, where one of the two is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Op {
    pub(super) kind: Kind,
    /// Where the result goes: 1 to 31, or [`SINK`] in place of `x0`.
    pub(super) rd: u8,
    pub(super) rs1: u8,
    pub(super) rs2: u8,
    /// The immediate, sign-extended; the word itself if it is illegal.
    pub(super) imm: i32,
}

/// The register that nobody reads: results for `x0` go here, so that writing needs no question.
pub(super) const SINK: u8 = 32;

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Sll,
    Srl,
    Sra,
    Slt,
    Sltu,
    Addw,
    Mul,
    Auipc,
    Lb,
    Lh,
    Lw,
    Ld,
    Lbu,
    Lhu,
    Lwu,
    Sb,
    Sh,
    Sw,
    Sd,
    Beq,
    Bne,
    Blt,
    Bge,
    Bltu,
    Bgeu,
    Jal,
    Jalr,
    Subw,
    Sllw,
    Srlw,
    Sraw,
    Mulh,
    Mulhsu,
    Mulhu,
    Mulw,
    Div,
    Divu,
    Rem,
    Remu,
    Divw,
    Divuw,
    Remw,
    Remuw,
    Fence,
    FenceI,
    Ecall,
    Ebreak,
    Wfi,
    /// Reads of `cycle` too: this hart retires one instruction a cycle.
    Instret,
    Time,
    /// For this and the other atomics the immediate is the width: see `atomic`.
    Lr,
    Sc,
    Amoswap,
    Amoadd,
    Amoxor,
    Amoand,
    Amoor,
    Amomin,
    Amomax,
    Amominu,
    Amomaxu,
    Illegal,
}
