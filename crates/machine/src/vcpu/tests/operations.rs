//! What single instructions compute, by the tables and sentences of the unprivileged specification.

use super::*;

const MIN: u64 = i64::MIN.cast_unsigned();
const MAX: u64 = i64::MAX.cast_unsigned();
const ONES: u64 = u64::MAX;
const MIN_WORD: u64 = i32::MIN.cast_unsigned() as u64;
/// The same, as registers hold it.
const MIN_WORD_SIGNED: u64 = 0xffff_ffff_8000_0000;

/// `a2` after an instruction, at address 0, of `a1` and `a3`.
fn result(word: u32, a1: u64, a3: u64) -> u64 {
    let (mut hart, mut memory) = started(&[word, ECALL], a1, a3);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    hart.x(Reg::A2)
}

fn check(table: &[(&str, u32, u64, u64, u64)]) {
    for &(name, word, a1, a3, expected) in table {
        assert_eq!(result(word, a1, a3), expected, "{name} {a1:#x}, {a3:#x}");
    }
}

#[test]
fn arithmetic_and_logic() {
    check(&[
        ("add", 0x00d5_8633, ONES, 2, 1),
        ("sub", 0x40d5_8633, 1, 2, ONES),
        ("xor", 0x00d5_c633, 0b1100, 0b1010, 0b0110),
        ("or", 0x00d5_e633, 0b1100, 0b1010, 0b1110),
        ("and", 0x00d5_f633, 0b1100, 0b1010, 0b1000),
        ("slt", 0x00d5_a633, ONES, 0, 1),
        ("slt", 0x00d5_a633, 0, ONES, 0),
        ("sltu", 0x00d5_b633, ONES, 0, 0),
        ("sltu", 0x00d5_b633, 0, ONES, 1),
        ("addw", 0x00d5_863b, 0x7fff_ffff, 1, MIN_WORD_SIGNED),
        ("addw", 0x00d5_863b, 0xffff_ffff, 1, 0),
        ("subw", 0x40d5_863b, MIN_WORD, 1, 0x7fff_ffff),
        ("auipc a2, 0xfffff", 0xffff_f617, 0, 0, 0xffff_ffff_ffff_f000),
        ("lui a2, 0x80000", 0x8000_0637, 0, 0, MIN_WORD_SIGNED),
    ]);
}

#[test]
fn shifts_take_the_low_bits_of_their_amount() {
    check(&[
        ("sll", 0x00d5_9633, 1, 64 + 63, MIN),
        ("srl", 0x00d5_d633, MIN, 64 + 63, 1),
        ("sra", 0x40d5_d633, MIN, 64 + 63, ONES),
        ("sllw", 0x00d5_963b, 1, 32 + 31, MIN_WORD_SIGNED),
        ("srlw", 0x00d5_d63b, ONES, 32 + 4, 0x0fff_ffff),
        ("srlw", 0x00d5_d63b, ONES, 32, ONES),
        ("sraw", 0x40d5_d63b, MIN_WORD, 32 + 4, 0xffff_ffff_f800_0000),
    ]);
}

#[test]
fn products() {
    check(&[
        ("mul", 0x02d5_8633, ONES, ONES, 1),
        ("mulh", 0x02d5_9633, ONES, ONES, 0),
        ("mulh", 0x02d5_9633, MIN, MIN, 1 << 62),
        ("mulhsu", 0x02d5_a633, ONES, ONES, ONES),
        ("mulhsu", 0x02d5_a633, MAX, ONES, MAX - 1),
        ("mulhu", 0x02d5_b633, ONES, ONES, ONES - 1),
        ("mulw", 0x02d5_863b, 0x1_0001_0000, 0x8000, MIN_WORD_SIGNED),
    ]);
}

/// Table 7.1: "Semantics for division by zero and division overflow".
#[test]
fn divisions_by_zero_and_their_overflow() {
    check(&[
        ("div", 0x02d5_c633, 7, 0, ONES),
        ("divu", 0x02d5_d633, 7, 0, ONES),
        ("rem", 0x02d5_e633, 7, 0, 7),
        ("remu", 0x02d5_f633, 7, 0, 7),
        ("div", 0x02d5_c633, MIN, ONES, MIN),
        ("rem", 0x02d5_e633, MIN, ONES, 0),
        ("divw", 0x02d5_c63b, 7, 1 << 32, ONES),
        ("divuw", 0x02d5_d63b, 7, 1 << 32, ONES),
        ("remw", 0x02d5_e63b, MIN_WORD, 1 << 32, MIN_WORD_SIGNED),
        ("remuw", 0x02d5_f63b, MIN_WORD, 1 << 32, MIN_WORD_SIGNED),
        ("divw", 0x02d5_c63b, MIN_WORD, ONES, MIN_WORD_SIGNED),
        ("remw", 0x02d5_e63b, MIN_WORD, ONES, 0),
    ]);
}

#[test]
fn divisions_round_to_zero_and_remainders_have_the_dividends_sign() {
    let minus = |value: u64| value.wrapping_neg();
    check(&[
        ("div", 0x02d5_c633, minus(7), 2, minus(3)),
        ("rem", 0x02d5_e633, minus(7), 2, minus(1)),
        ("rem", 0x02d5_e633, 7, minus(2), 1),
        ("divu", 0x02d5_d633, minus(1), 2, MAX),
        ("remu", 0x02d5_f633, minus(1), 2, 1),
        ("divw", 0x02d5_c63b, 0xffff_fff9, 2, minus(3)),
        ("divuw", 0x02d5_d63b, 0xffff_fff9, 2, 0x7fff_fffc),
        ("remw", 0x02d5_e63b, 0xffff_fff9, 2, minus(1)),
        ("remuw", 0x02d5_f63b, 0xffff_fffe, 0xffff_ffff, minus(2)),
    ]);
}

#[test]
fn loads_extend_as_their_names_say() {
    let table = [
        ("lb", 0x0005_8603, 0xffff_ffff_ffff_ff88),
        ("lh", 0x0005_9603, 0xffff_ffff_ffff_9988),
        ("lw", 0x0005_a603, 0xffff_ffff_bbaa_9988),
        ("ld", 0x0005_b603, 0xffee_ddcc_bbaa_9988),
        ("lbu", 0x0005_c603, 0x88),
        ("lhu", 0x0005_d603, 0x9988),
        ("lwu", 0x0005_e603, 0xbbaa_9988),
    ];
    for (name, word, expected) in table {
        let (mut hart, mut memory) = started(&[word, ECALL], DATA, 0);
        memory.put_double(DATA, 0xffee_ddcc_bbaa_9988);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!(hart.x(Reg::A2), expected, "{name}");
    }
}

#[test]
fn stores_change_the_bytes_they_name() {
    let table = [
        ("sb", 0x00d5_8023, 0x0000_0000_0000_0008),
        ("sh", 0x00d5_9023, 0x0000_0000_0000_0708),
        ("sw", 0x00d5_a023, 0x0000_0000_0506_0708),
        ("sd", 0x00d5_b023, 0x0102_0304_0506_0708),
    ];
    for (name, word, expected) in table {
        let (mut hart, mut memory) = started(&[word, ECALL], DATA, 0x0102_0304_0506_0708);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!(memory.double(DATA), expected, "{name}");
    }
}

/// Whether a branch over two instructions, which count, was taken.
fn taken(branch: u32, a1: u64, a3: u64) -> bool {
    let (mut hart, mut memory) = started(&[branch, COUNT, COUNT, ECALL], a1, a3);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    hart.x(Reg::A2) == 0
}

#[test]
fn branches_compare_as_their_names_say() {
    let pairs = [(1, 1), (1, 2), (2, 1), (ONES, 1), (1, ONES)];
    let table = [
        ("beq", 0x00d5_8663, [true, false, false, false, false]),
        ("bne", 0x00d5_9663, [false, true, true, true, true]),
        ("blt", 0x00d5_c663, [false, true, false, true, false]),
        ("bge", 0x00d5_d663, [true, false, true, false, true]),
        ("bltu", 0x00d5_e663, [false, true, false, false, true]),
        ("bgeu", 0x00d5_f663, [true, false, true, true, false]),
    ];
    for (name, word, expected) in table {
        assert_eq!(pairs.map(|(a1, a3)| taken(word, a1, a3)), expected, "{name}");
    }
}

#[test]
fn jalr_links_clears_the_lowest_bit_and_may_use_its_own_result_register() {
    // jalr a2, 1(a1) with a1 = 8; jalr a2, 3(a1) with a1 = 6.
    for (word, a1) in [(0x0015_8667, 8), (0x0035_8667, 6)] {
        let (mut hart, mut memory) = started(&[word, EBREAK, ECALL], a1, 0);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!((hart.pc(), hart.x(Reg::A2)), (Gpa::new(8), 4));
    }
    // jalr a1, 0(a1)
    let (mut hart, mut memory) = started(&[0x0005_85e7, EBREAK, ECALL], 8, 0);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.pc(), hart.x(Reg::A1)), (Gpa::new(8), 4));
}

#[test]
fn a_jump_between_instructions_exits_and_links_nothing() {
    // jalr a2, 3(a1) with a1 = 4: to 6.
    let (mut hart, mut memory) = started(&[0x0035_8667], 4, 0);
    let exit = Exit::Misaligned { address: Gpa::new(6) };
    assert_eq!(hart.run(&mut memory, ENOUGH), exit);
    assert_eq!((hart.pc(), hart.x(Reg::A2), hart.instret()), (Gpa::new(0), 0, 0));
}

/// The double and the word form of an AMO; what is in memory, the operand, what is stored.
const AMOS: [(&str, [u32; 2], u64, u64, u64); 13] = [
    ("amoswap", [0x08d5_b62f, 0x08d5_a62f], 6, 3, 3),
    ("amoadd", [0x00d5_b62f, 0x00d5_a62f], 6, ONES, 5),
    ("amoxor", [0x20d5_b62f, 0x20d5_a62f], 6, 3, 5),
    ("amoand", [0x60d5_b62f, 0x60d5_a62f], 6, 3, 2),
    ("amoor", [0x40d5_b62f, 0x40d5_a62f], 6, 3, 7),
    ("amomin", [0x80d5_b62f, 0x80d5_a62f], 6, ONES, ONES),
    ("amomin", [0x80d5_b62f, 0x80d5_a62f], 6, 7, 6),
    ("amomax", [0xa0d5_b62f, 0xa0d5_a62f], 6, ONES, 6),
    ("amomax", [0xa0d5_b62f, 0xa0d5_a62f], 6, 7, 7),
    ("amominu", [0xc0d5_b62f, 0xc0d5_a62f], 6, ONES, 6),
    ("amominu", [0xc0d5_b62f, 0xc0d5_a62f], 6, 3, 3),
    ("amomaxu", [0xe0d5_b62f, 0xe0d5_a62f], 6, ONES, ONES),
    ("amomaxu", [0xe0d5_b62f, 0xe0d5_a62f], 6, 3, 6),
];

#[test]
fn amos_store_what_their_names_say_and_give_what_was_there() {
    for (name, [double, word], held, operand, stored) in AMOS {
        for (amo, mask) in [(double, ONES), (word, 0xffff_ffff)] {
            let (mut hart, mut memory) = started(&[amo, ECALL], DATA, operand);
            memory.put_double(DATA, held);
            assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
            assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (held, stored & mask), "{name}");
        }
    }
}

#[test]
fn amos_of_words_compare_words_and_give_them_sign_extended() {
    // amomaxu.w, amomax.w of 0x8000_0000 in memory and 1, with upper bits that do not count.
    for (amo, stored) in [(0xe0d5_a62f, 0x7_8000_0000), (0xa0d5_a62f, 0x7_0000_0001)] {
        let (mut hart, mut memory) = started(&[amo, ECALL], DATA, 0xdead_0000_0000_0001);
        memory.put_double(DATA, 0x7_8000_0000);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (MIN_WORD_SIGNED, stored));
    }
}
