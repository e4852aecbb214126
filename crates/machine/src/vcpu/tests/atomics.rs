//! LR, SC and AMO. What AMOs compute is in `operations`.

use super::*;

/// `lr.w a0, (a1)`.
const LR_WORD: u32 = 0x1005_a52f;
/// `sc.w a2, a3, (a1)`.
const SC_WORD: u32 = 0x18d5_a62f;
/// `addi a1, a1, 8`.
const NEXT_DOUBLE: u32 = 0x0085_8593;

#[test]
fn sc_stores_what_nobody_changed_since_the_lr() {
    let (mut hart, mut memory) = started(&[LR, SC, ECALL], DATA, 5);
    memory.put_double(DATA, 40);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A0), hart.x(Reg::A2), memory.double(DATA)), (40, 0, 5));
}

#[test]
fn sc_of_a_word_leaves_its_neighbour() {
    let (mut hart, mut memory) = started(&[LR_WORD, SC_WORD, ECALL], DATA, u64::MAX);
    memory.put_double(DATA, 0x0000_0007_8000_0000);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!(hart.x(Reg::A0), 0xffff_ffff_8000_0000, "sign-extended");
    assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (0, 0x0000_0007_ffff_ffff));
}

#[test]
fn sc_fails_after_anothers_store() {
    let (mut one, mut memory) = started(&[LR, ECALL, SC, ECALL], DATA, 5);
    assert_eq!(one.run(&mut memory, ENOUGH), Exit::Ecall);
    let mut other = hart(DATA, 99);
    memory.put_words(0x100, &[SD, ECALL]);
    other.core.pc = 0x100;
    assert_eq!(other.run(&mut memory, ENOUGH), Exit::Ecall);
    one.skip();
    assert_eq!(one.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((one.x(Reg::A2), memory.double(DATA)), (1, 99));
}

#[test]
fn sc_fails_without_a_reservation_and_uses_one_up() {
    for program in [&[SC, ECALL][..], &[LR, SC, SC, ECALL], &[LR, NEXT_DOUBLE, SC, ECALL]] {
        let (mut hart, mut memory) = started(program, DATA, 5);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!(hart.x(Reg::A2), 1, "{program:x?}");
    }
}

#[test]
fn sc_uses_its_reservation_up_where_memory_stays_as_it_was() {
    // The same value stored; and an SC elsewhere, which fails, then `addi a1, a1, -8`.
    for program in [&[LR, SC, SC, ECALL][..], &[LR, NEXT_DOUBLE, SC, 0xff85_8593, SC, ECALL]] {
        let (mut hart, mut memory) = started(program, DATA, 40);
        memory.put_double(DATA, 40);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!(hart.x(Reg::A2), 1, "{program:x?}");
    }
}

#[test]
fn sc_fails_elsewhere_and_stores_nothing_there() {
    let (mut hart, mut memory) = started(&[LR, NEXT_DOUBLE, SC, ECALL], DATA, 5);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((memory.double(DATA), memory.double(DATA + 8)), (0, 0));
}

#[test]
fn sc_of_another_width_fails() {
    for program in [[LR, SC_WORD, ECALL], [LR_WORD, SC, ECALL]] {
        let (mut hart, mut memory) = started(&program, DATA, 5);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (1, 0));
    }
}

#[test]
fn a_restored_hart_holds_no_reservation() {
    let (mut hart, mut memory) = started(&[LR, ECALL, SC, ECALL], DATA, 5);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    hart.skip();
    let mut moved = Hart::restore(&hart.save());
    assert_eq!(moved.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((moved.x(Reg::A2), memory.double(DATA)), (1, 0));
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (0, 5), "the hart that stayed does");
}

#[test]
fn an_atomic_that_is_not_aligned_exits_and_changes_nothing() {
    let doubles = [LR, SC, AMOADD].map(|word| (word, vec![1, 2, 4, 7]));
    let words = [LR_WORD, SC_WORD, 0x00d5_a62f].map(|word| (word, vec![1, 2, 3, 6]));
    for (word, offsets) in doubles.into_iter().chain(words) {
        for offset in offsets {
            let (mut hart, mut memory) = started(&[NOP, word], DATA + offset, 5);
            let exit = Exit::Misaligned { address: Gpa::new(DATA + offset) };
            assert_eq!(hart.run(&mut memory, ENOUGH), exit, "{word:#x}");
            assert_eq!((hart.pc(), hart.x(Reg::A2)), (Gpa::new(4), 0));
            assert_eq!((memory.double(DATA), memory.double(DATA + 8)), (0, 0));
        }
    }
}

#[test]
fn an_amo_of_a_word_may_be_at_half_a_double() {
    let (mut hart, mut memory) = started(&[0x00d5_a62f, ECALL], DATA + 4, 5);
    memory.put_double(DATA, 0x0000_0007_0000_0009);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (7, 0x0000_000c_0000_0009));
}

#[test]
fn an_amo_adds_to_what_another_stored_under_its_hands() {
    let (mut hart, mut memory) = started(&[AMOADD, ECALL], DATA, 5);
    memory.meanwhile = Some(|memory| memory.put_double(DATA, 100));
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (100, 105));
}

#[test]
fn an_sc_fails_when_another_stored_under_its_hands() {
    let (mut hart, mut memory) = started(&[LR, SC, ECALL], DATA, 5);
    memory.meanwhile = Some(|memory| memory.put_double(DATA, 100));
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (1, 100));
}
