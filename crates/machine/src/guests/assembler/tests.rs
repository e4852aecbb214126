//! Words as binutils assembles the same lines (`as -march=rv64ima_zicsr_zifencei`).

use super::*;

/// Writes a line.
type Write = fn(&mut Assembler);
/// A line of assembly, what writes it here, and its words.
type Line = (&'static str, Write, &'static [u32]);

fn assembled(write: impl FnOnce(&mut Assembler)) -> Result<Vec<u32>, AssembleError> {
    let mut asm = Assembler::new();
    write(&mut asm);
    asm.finish()
}

fn check(lines: &[Line]) {
    for (text, write, words) in lines {
        assert_eq!(assembled(write).as_deref(), Ok(*words), "{text}");
    }
}

#[test]
fn register_forms() {
    check(&[
        ("add a0, t3, s11", |asm| asm.add(Reg::A0, Reg::T3, Reg::S11), &[0x01be_0533]),
        ("sub s1, a7, t6", |asm| asm.sub(Reg::S1, Reg::A7, Reg::T6), &[0x41f8_84b3]),
        ("sll t0, s2, a1", |asm| asm.sll(Reg::T0, Reg::S2, Reg::A1), &[0x00b9_12b3]),
        ("srl t1, t2, t3", |asm| asm.srl(Reg::T1, Reg::T2, Reg::T3), &[0x01c3_d333]),
        ("and gp, sp, ra", |asm| asm.and(Reg::GP, Reg::SP, Reg::RA), &[0x0011_71b3]),
        ("or t4, t5, t6", |asm| asm.or(Reg::T4, Reg::T5, Reg::T6), &[0x01ff_6eb3]),
        ("xor s3, s4, s5", |asm| asm.xor(Reg::S3, Reg::S4, Reg::S5), &[0x015a_49b3]),
        ("sltu s6, s7, s8", |asm| asm.sltu(Reg::S6, Reg::S7, Reg::S8), &[0x018b_bb33]),
        ("mul s9, s10, s11", |asm| asm.mul(Reg::S9, Reg::S10, Reg::S11), &[0x03bd_0cb3]),
        ("mulhu a2, a3, a4", |asm| asm.mulhu(Reg::A2, Reg::A3, Reg::A4), &[0x02e6_b633]),
        ("divu a5, a6, a7", |asm| asm.divu(Reg::A5, Reg::A6, Reg::A7), &[0x0318_57b3]),
        ("remu tp, s0, s1", |asm| asm.remu(Reg::TP, Reg::S0, Reg::S1), &[0x0294_7233]),
    ]);
}

#[test]
fn immediate_forms() {
    check(&[
        ("addi t0, t1, -2048", |asm| asm.addi(Reg::T0, Reg::T1, -2048), &[0x8003_0293]),
        ("addi a7, sp, 2047", |asm| asm.addi(Reg::A7, Reg::SP, 2047), &[0x7ff1_0893]),
        ("andi a0, a1, -1", |asm| asm.andi(Reg::A0, Reg::A1, -1), &[0xfff5_f513]),
        ("xori s2, s3, 0x555", |asm| asm.xori(Reg::S2, Reg::S3, 0x555), &[0x5559_c913]),
        ("ori t6, t5, -0x556", |asm| asm.ori(Reg::T6, Reg::T5, -0x556), &[0xaaaf_6f93]),
        ("slli a0, a0, 63", |asm| asm.slli(Reg::A0, Reg::A0, 63), &[0x03f5_1513]),
        ("slli t1, t2, 1", |asm| asm.slli(Reg::T1, Reg::T2, 1), &[0x0013_9313]),
        ("srli s1, s2, 32", |asm| asm.srli(Reg::S1, Reg::S2, 32), &[0x0209_5493]),
        ("mv a0, s11", |asm| asm.mv(Reg::A0, Reg::S11), &[0x000d_8513]),
        ("ret", Assembler::ret, &[0x0000_8067]),
    ]);
}

#[test]
fn loads_stores_and_atomics() {
    check(&[
        ("ld a0, -8(s1)", |asm| asm.ld(Reg::A0, -8, Reg::S1), &[0xff84_b503]),
        ("lw t0, 2047(t1)", |asm| asm.lw(Reg::T0, 2047, Reg::T1), &[0x7ff3_2283]),
        ("lbu s11, -2048(gp)", |asm| asm.lbu(Reg::S11, -2048, Reg::GP), &[0x8001_cd83]),
        ("sd s11, -2048(a0)", |asm| asm.sd(Reg::S11, -2048, Reg::A0), &[0x81b5_3023]),
        ("sd t6, 2047(sp)", |asm| asm.sd(Reg::T6, 2047, Reg::SP), &[0x7ff1_3fa3]),
        ("sw a5, 124(t3)", |asm| asm.sw(Reg::A5, 124, Reg::T3), &[0x06fe_2e23]),
        ("sb ra, -1(s5)", |asm| asm.sb(Reg::RA, -1, Reg::S5), &[0xfe1a_8fa3]),
        ("amoadd.d a0, a1, (a2)", |asm| asm.amoadd_d(Reg::A0, Reg::A1, Reg::A2), &[0x00b6_352f]),
        ("amoadd.w t3, t4, (t5)", |asm| asm.amoadd_w(Reg::T3, Reg::T4, Reg::T5), &[0x01df_2e2f]),
    ]);
}

#[test]
fn system_instructions() {
    check(&[
        ("fence", Assembler::fence, &[0x0ff0_000f]),
        ("fence.i", Assembler::fence_i, &[0x0000_100f]),
        ("ecall", Assembler::ecall, &[0x0000_0073]),
        ("ebreak", Assembler::ebreak, &[0x0010_0073]),
        ("wfi", Assembler::wfi, &[0x1050_0073]),
    ]);
}

#[test]
fn small_constants() {
    check(&[
        ("li a0, 2047", |asm| asm.li(Reg::A0, 2047), &[0x7ff0_0513]),
        ("li a0, -2048", |asm| asm.li(Reg::A0, -2048), &[0x8000_0513]),
        ("li t0, 2048", |asm| asm.li(Reg::T0, 2048), &[0x0000_12b7, 0x8002_829b]),
        ("li t1, -2049", |asm| asm.li(Reg::T1, -2049), &[0xffff_f337, 0x7ff3_031b]),
        ("li s0, 0x7fffffff", |asm| asm.li(Reg::S0, 0x7fff_ffff), &[0x8000_0437, 0xfff4_041b]),
        ("li a1, 0x12345678", |asm| asm.li(Reg::A1, 0x1234_5678), &[0x1234_55b7, 0x6785_859b]),
    ]);
}

/// ```text
/// 1:      beq  a0, s11, 1b
///         bne  t6, ra, 2f
///         bltu a5, s1, 1b
/// 2:      bgeu sp, gp, 3f
///         beqz t0, 1b
///         bnez s3, 3f
///         jal  t2, 1b
///         j    3f
///         call 1b
/// 3:
/// ```
#[test]
fn branches_and_jumps_reach_their_labels_both_ways() {
    let words = assembled(|asm| {
        let (second, third) = (asm.label(), asm.label());
        let first = asm.here();
        asm.beq(Reg::A0, Reg::S11, first);
        asm.bne(Reg::T6, Reg::RA, second);
        asm.bltu(Reg::A5, Reg::S1, first);
        asm.bind(second);
        asm.bgeu(Reg::SP, Reg::GP, third);
        asm.beqz(Reg::T0, first);
        asm.bnez(Reg::S3, third);
        asm.jal(Reg::T2, first);
        asm.j(third);
        asm.call(first);
        asm.bind(third);
    });
    let expected = [
        0x01b5_0063,
        0x001f_9463,
        0xfe97_ece3,
        0x0031_7c63,
        0xfe02_88e3,
        0x0009_9863,
        0xfe9f_f3ef,
        0x0080_006f,
        0xfe1f_f0ef,
    ];
    assert_eq!(words.as_deref(), Ok(&expected[..]));
}

/// Words of `branch` to a label `words` words on, or back if negative.
fn way(branch: fn(&mut Assembler, Label), words: i64) -> Result<Vec<u32>, AssembleError> {
    assembled(|asm| {
        let to = asm.label();
        if words <= 0 {
            asm.bind(to);
            (words..0).for_each(|_| asm.word(0));
        }
        branch(asm, to);
        if words > 0 {
            (1..words).for_each(|_| asm.word(0));
            asm.bind(to);
        }
    })
}

#[test]
fn the_farthest_ways_are_those_of_binutils_and_the_next_are_refused() {
    let beq = |asm: &mut Assembler, to| asm.beqz(Reg::ZERO, to);
    assert_eq!(way(beq, 1023).expect("4092 bytes")[0], 0x7e00_0ee3);
    assert_eq!(way(beq, -1024).expect("-4096 bytes")[1024], 0x8000_0063);
    assert_eq!(way(beq, 1024), Err(AssembleError::Reach { at: 0, value: 4096 }));
    assert_eq!(way(beq, -1025), Err(AssembleError::Reach { at: 1025, value: -4100 }));
    let jal = Assembler::j;
    assert_eq!(way(jal, (1 << 18) - 1).expect("1 MiB - 4")[0], 0x7fdf_f06f);
    assert_eq!(way(jal, -(1 << 18)).expect("-1 MiB")[1 << 18], 0x8000_006f);
    assert_eq!(way(jal, 1 << 18), Err(AssembleError::Reach { at: 0, value: 1 << 20 }));
}

#[test]
fn immediates_that_do_not_fit_are_refused_where_they_are() {
    let lines: [(Write, i64); 6] = [
        (|asm| asm.addi(Reg::A0, Reg::A0, 2048), 2048),
        (|asm| asm.ori(Reg::A0, Reg::A0, -2049), -2049),
        (|asm| asm.ld(Reg::A0, 2048, Reg::A0), 2048),
        (|asm| asm.sd(Reg::A0, -2049, Reg::A0), -2049),
        (|asm| asm.slli(Reg::A0, Reg::A0, 64), 64),
        (|asm| asm.srli(Reg::A0, Reg::A0, 99), 99),
    ];
    for (write, value) in lines {
        let found = assembled(|asm| {
            asm.ecall();
            write(asm);
        });
        assert_eq!(found, Err(AssembleError::Reach { at: 1, value }));
    }
}

#[test]
fn a_label_without_a_place_is_refused_where_it_is_used() {
    let found = assembled(|asm| {
        let nowhere = asm.label();
        asm.ecall();
        asm.j(nowhere);
    });
    assert_eq!(found, Err(AssembleError::Unbound { at: 1 }));
}

#[test]
fn text_ends_with_a_zero_and_fills_its_words() {
    let text = |text: &'static str| {
        assembled(|asm| {
            asm.text(text);
        })
    };
    assert_eq!(text("abc"), Ok(vec![u32::from_le_bytes(*b"abc\0"), 0]));
    assert_eq!(text("abcd"), Ok(vec![u32::from_le_bytes(*b"abcd"), 0]));
    assert_eq!(text(""), Ok(vec![0]));
}

mod run {
    //! What takes several words, by what a hart makes of it.

    use super::*;
    use crate::bus::plain::Plain;
    use crate::vcpu::{Exit, Hart};
    use proptest::prelude::*;
    use vellum_pte::Gpa;

    /// A register after a program.
    fn value_of(reg: Reg, write: impl FnOnce(&mut Assembler)) -> u64 {
        let words = assembled(|asm| {
            write(asm);
            asm.ecall();
        });
        let mut memory = Plain::with_program(4, &words.expect("it assembles"));
        let mut hart = Hart::new(0, Gpa::new(0), 0);
        assert_eq!(hart.run(&mut memory, 1 << 16), Exit::Ecall);
        hart.x(reg)
    }

    proptest! {
        #[test]
        fn any_constant_is_loaded(value: i64, bits in 0u32..64) {
            let value = value >> bits;
            let loaded = value_of(Reg::S3, |asm| asm.li(Reg::S3, value));
            prop_assert_eq!(loaded, value.cast_unsigned());
        }

        #[test]
        fn the_address_of_a_label_is_loaded_both_ways(before in 0usize..1500, between in 0usize..1500) {
            let nops = |asm: &mut Assembler, count| (0..count).for_each(|_| asm.word(0x13));
            let forth = value_of(Reg::S3, |asm| {
                let there = asm.label();
                nops(asm, before);
                asm.la(Reg::S3, there);
                nops(asm, between);
                asm.bind(there);
            });
            prop_assert_eq!(forth, 4 * (before + 2 + between) as u64);
            let back = value_of(Reg::S3, |asm| {
                nops(asm, before);
                let there = asm.here();
                nops(asm, between);
                asm.la(Reg::S3, there);
            });
            prop_assert_eq!(back, 4 * before as u64);
        }

        #[test]
        fn the_smaller_of_two_numbers_is_found(a: i64, b: i64) {
            let smaller = value_of(Reg::A0, |asm| {
                asm.li(Reg::A1, a);
                asm.li(Reg::A2, b);
                asm.min_unsigned(Reg::A0, Reg::A1, Reg::A2);
            });
            prop_assert_eq!(smaller, a.cast_unsigned().min(b.cast_unsigned()));
        }
    }
}
