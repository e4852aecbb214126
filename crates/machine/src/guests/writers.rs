//! The guests that write and check nothing.
//!
//! Besides the registers of [`super::start`]: `s4` the pages of the working set, `s5` the number
//! of the pass, `s6` where in a page it writes, `s7` what is left of the pass.

use super::RESERVED_PAGES;
use super::assembler::Assembler;
use super::start::{parameter, progress, start};
use crate::sbi::Parameter;
use crate::vcpu::Reg;

const PAGE: u32 = 12;
/// Odd constants, to spread numbers with: the golden ratio, and one of MurmurHash3's finalizer.
const SPREAD: i64 = 0x9e37_79b9_7f4a_7c15_u64.cast_signed();
const SCATTER: i64 = 0xff51_afd7_ed55_8ccd_u64.cast_signed();

/// [`super::Builtin::Sequential`].
pub(super) fn sequential() -> Assembler {
    let mut asm = Assembler::new();
    start(&mut asm);
    working_set(&mut asm);
    let pass = next_pass(&mut asm);
    asm.mv(Reg::T1, Reg::S0);
    let next = asm.here();
    let done = asm.label();
    asm.bgeu(Reg::T1, Reg::S4, done);
    write(&mut asm, Reg::T1);
    asm.add(Reg::T1, Reg::T1, Reg::S2);
    asm.j(next);
    asm.bind(done);
    progress(&mut asm, Reg::S5);
    asm.j(pass);
    asm
}

/// [`super::Builtin::Random`].
pub(super) fn random() -> Assembler {
    drawing(|asm| asm.mulhu(Reg::T1, Reg::S10, Reg::S4))
}

/// [`super::Builtin::Zipf`].
pub(super) fn zipf() -> Assembler {
    drawing(|asm| {
        octaves(asm, Reg::T2);
        // The octave, 0 to t2 - 1, by the upper bits; t3 ranks are in it, and below it.
        asm.mulhu(Reg::T0, Reg::S10, Reg::T2);
        asm.li(Reg::T3, 1);
        asm.sll(Reg::T3, Reg::T3, Reg::T0);
        asm.addi(Reg::T0, Reg::T3, -1);
        // The rank less one: those below, and one within by the lower bits.
        asm.and(Reg::T1, Reg::S10, Reg::T0);
        asm.add(Reg::T1, Reg::T1, Reg::T0);
        asm.li(Reg::T0, SCATTER);
        asm.mul(Reg::T1, Reg::T1, Reg::T0);
        asm.li(Reg::T3, 1);
        asm.sll(Reg::T3, Reg::T3, Reg::T2);
        asm.addi(Reg::T3, Reg::T3, -1);
        asm.and(Reg::T1, Reg::T1, Reg::T3);
    })
}

/// [`super::Builtin::Idle`].
pub(super) fn idle() -> Assembler {
    let mut asm = Assembler::new();
    start(&mut asm);
    asm.slli(Reg::T0, Reg::S0, PAGE);
    asm.add(Reg::S1, Reg::S1, Reg::T0);
    asm.li(Reg::S5, 0);
    let again = asm.here();
    asm.wfi();
    asm.addi(Reg::S5, Reg::S5, 1);
    asm.sd(Reg::S5, 0, Reg::S1);
    progress(&mut asm, Reg::S5);
    asm.j(again);
    asm
}

/// A guest that writes the page that `draw` puts in `t1`, drawn by `s10`; a pass is as many writes
/// as the working set has pages.
fn drawing(draw: impl Fn(&mut Assembler)) -> Assembler {
    let mut asm = Assembler::new();
    start(&mut asm);
    working_set(&mut asm);
    seed(&mut asm);
    let pass = next_pass(&mut asm);
    asm.mv(Reg::S7, Reg::S4);
    let next = asm.here();
    step(&mut asm);
    draw(&mut asm);
    write(&mut asm, Reg::T1);
    asm.addi(Reg::S7, Reg::S7, -1);
    asm.bnez(Reg::S7, next);
    progress(&mut asm, Reg::S5);
    asm.j(pass);
    asm
}

/// `s4` = the pages of the working set, at least one and no more than there are.
fn working_set(asm: &mut Assembler) {
    let given = asm.label();
    let done = asm.label();
    parameter(asm, Reg::T0, Parameter::Word);
    asm.srli(Reg::T0, Reg::T0, PAGE);
    asm.bnez(Reg::T0, given);
    asm.srli(Reg::T0, Reg::S3, 1);
    asm.bind(given);
    asm.addi(Reg::T1, Reg::S3, -RESERVED_PAGES.cast_signed());
    asm.min_unsigned(Reg::S4, Reg::T0, Reg::T1);
    asm.bnez(Reg::S4, done);
    asm.li(Reg::S4, 1);
    asm.bind(done);
    asm.li(Reg::S5, 0);
}

/// Where a pass begins: counts it, and moves the place in a page on, so that a page's bytes differ
/// from pass to pass in more than one word.
fn next_pass(asm: &mut Assembler) -> super::assembler::Label {
    let pass = asm.here();
    asm.addi(Reg::S5, Reg::S5, 1);
    asm.andi(Reg::S6, Reg::S5, 511);
    asm.slli(Reg::S6, Reg::S6, 3);
    pass
}

/// Writes the number of the pass to page `page` of the working set.
fn write(asm: &mut Assembler, page: Reg) {
    asm.slli(Reg::T0, page, PAGE);
    asm.add(Reg::T0, Reg::T0, Reg::S1);
    asm.add(Reg::T0, Reg::T0, Reg::S6);
    asm.sd(Reg::S5, 0, Reg::T0);
}

/// `s10` = this hart's own start of [`step`], which must not be zero.
fn seed(asm: &mut Assembler) {
    asm.add(Reg::S10, Reg::S10, Reg::S0);
    asm.addi(Reg::S10, Reg::S10, 1);
    asm.li(Reg::T0, SPREAD);
    asm.mul(Reg::S10, Reg::S10, Reg::T0);
    asm.ori(Reg::S10, Reg::S10, 1);
}

/// `s10` = the next random number (Marsaglia's xorshift with 13, 7, 17).
fn step(asm: &mut Assembler) {
    asm.slli(Reg::T0, Reg::S10, 13);
    asm.xor(Reg::S10, Reg::S10, Reg::T0);
    asm.srli(Reg::T0, Reg::S10, 7);
    asm.xor(Reg::S10, Reg::S10, Reg::T0);
    asm.slli(Reg::T0, Reg::S10, 17);
    asm.xor(Reg::S10, Reg::S10, Reg::T0);
}

/// `rd` = the base-2 logarithm of the pages of the working set, rounded down.
fn octaves(asm: &mut Assembler, rd: Reg) {
    let done = asm.label();
    asm.li(rd, 0);
    asm.srli(Reg::T0, Reg::S4, 1);
    let again = asm.here();
    asm.beqz(Reg::T0, done);
    asm.addi(rd, rd, 1);
    asm.srli(Reg::T0, Reg::T0, 1);
    asm.j(again);
    asm.bind(done);
}
