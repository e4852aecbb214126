//! Harts on a few pages of memory. Words are as binutils assembles the mnemonics beside them.

mod atomics;
mod operations;
mod state;

use super::{Exit, Hart, Reg};
use crate::bus::BusError;
use crate::bus::plain::Plain;
use proptest::prelude::*;
use vellum_pte::Gpa;

const ECALL: u32 = 0x0000_0073;
const EBREAK: u32 = 0x0010_0073;
const WFI: u32 = 0x1050_0073;
const FENCE_I: u32 = 0x0000_100f;
const NOP: u32 = 0x0000_0013;
/// `addi a2, a2, 1`.
const COUNT: u32 = 0x0016_0613;
/// `addi a2, a2, 2`.
const COUNT_TWO: u32 = 0x0026_0613;
/// `j .-4`.
const BACK: u32 = 0xffdf_f06f;
/// `jr a1`.
const JUMP: u32 = 0x0005_8067;
/// `sw a3, 0(a1)`.
const SW: u32 = 0x00d5_a023;
/// `ld a2, 0(a1)`.
const LD: u32 = 0x0005_b603;
/// `sd a3, 0(a1)`.
const SD: u32 = 0x00d5_b023;
/// `lr.d a0, (a1)`.
const LR: u32 = 0x1005_b52f;
/// `sc.d a2, a3, (a1)`.
const SC: u32 = 0x18d5_b62f;
/// `amoadd.d a2, a3, (a1)`.
const AMOADD: u32 = 0x00d5_b62f;

/// Where data is: behind the page with the program.
const DATA: u64 = 0x1000;
const ENOUGH: u64 = 1000;

fn hart(a1: u64, a3: u64) -> Hart {
    let mut hart = Hart::new(0, Gpa::new(0), a1);
    hart.set_x(Reg::A3, a3);
    hart
}

/// A hart at the program's first word, and memory with the program.
fn started(words: &[u32], a1: u64, a3: u64) -> (Hart, Plain) {
    (hart(a1, a3), Plain::with_program(3, words))
}

#[test]
fn a_hart_starts_with_its_id_and_what_it_was_given() {
    let hart = Hart::new(3, Gpa::new(0x40), 9);
    assert_eq!((hart.id(), hart.pc(), hart.instret()), (3, Gpa::new(0x40), 0));
    assert_eq!((hart.x(Reg::A0), hart.x(Reg::A1), hart.x(Reg::A2)), (3, 9, 0));
}

#[test]
fn an_access_that_faulted_changed_nothing_and_retires_when_run_again() {
    for access in [LD, SD, LR, AMOADD] {
        let (mut hart, mut memory) = started(&[COUNT, access, ECALL], DATA, 5);
        memory.put_double(DATA, 40);
        let refusal = BusError::OutOfMemory(Gpa::new(DATA));
        memory.refusal = Some(refusal);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Fault(refusal), "{access:#x}");
        let stopped = hart.save();
        assert_eq!((stopped.pc(), stopped.instret(), hart.x(Reg::A2)), (Gpa::new(4), 1, 1));
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Fault(refusal));
        assert_eq!((hart.save(), memory.double(DATA)), (stopped, 40));
        memory.refusal = None;
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!((hart.pc(), hart.instret()), (Gpa::new(8), 2));
    }
}

#[test]
fn a_store_that_faulted_is_the_same_store_when_run_again() {
    let (mut hart, mut memory) = started(&[SD, ECALL], DATA, 5);
    memory.refusal = Some(BusError::OutOfMemory(Gpa::new(DATA)));
    assert!(matches!(hart.run(&mut memory, ENOUGH), Exit::Fault(_)));
    memory.refusal = None;
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!(memory.double(DATA), 5);
}

#[test]
fn a_failed_sc_store_keeps_its_reservation_for_another_try() {
    let (mut hart, mut memory) = started(&[LR, ECALL, SC, ECALL], DATA, 5);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    hart.skip();
    memory.refusal = Some(BusError::OutOfMemory(Gpa::new(DATA)));
    assert!(matches!(hart.run(&mut memory, ENOUGH), Exit::Fault(_)));
    memory.refusal = None;
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), memory.double(DATA)), (0, 5));
}

#[test]
fn a_jump_to_no_memory_is_a_fault_of_the_fetch() {
    let beyond = 3 << 12;
    let (mut hart, mut memory) = started(&[JUMP], beyond, 0);
    let fault = Exit::Fault(BusError::Unmapped(Gpa::new(beyond)));
    assert_eq!(hart.run(&mut memory, ENOUGH), fault);
    assert_eq!((hart.pc(), hart.instret()), (Gpa::new(beyond), 1));
}

#[test]
fn decoded_pages_are_kept_for_an_epoch_and_no_longer() {
    let (mut hart, mut memory) = started(&[COUNT, BACK], 0, 0);
    let _ = hart.run(&mut memory, 10);
    let _ = hart.run(&mut memory, 10);
    assert_eq!(memory.fetches, 1);
    memory.put_words(0, &[EBREAK]);
    assert_eq!(hart.run(&mut memory, 10), Exit::Budget, "no fence.i, no change of epoch");
    memory.epoch += 1;
    assert_eq!(hart.run(&mut memory, 10), Exit::Breakpoint);
    assert_eq!(memory.fetches, 2);
}

#[test]
fn a_change_of_epoch_is_seen_at_the_next_taken_branch() {
    let (mut hart, mut memory) = started(&[SD, BACK], DATA, 0);
    memory.meanwhile = Some(|memory| {
        memory.put_words(0, &[EBREAK]);
        memory.epoch += 1;
    });
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Breakpoint);
    assert_eq!((hart.pc(), hart.instret()), (Gpa::new(0), 2));
}

#[test]
fn code_that_was_written_runs_after_fence_i() {
    let words = |between| [SW, between, NOP, COUNT, ECALL];
    for (between, counted) in [(FENCE_I, 2), (NOP, 1)] {
        let (mut hart, mut memory) = started(&words(between), 12, COUNT_TWO.into());
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!((hart.x(Reg::A2), hart.instret()), (counted, 4));
    }
}

#[test]
fn pages_that_share_a_place_in_the_cache_are_not_taken_for_each_other() {
    let far: u64 = 64 << 12;
    let mut memory = Plain::new(65);
    memory.put_words(0, &[COUNT, JUMP]);
    memory.put_words(far, &[COUNT_TWO, ECALL]);
    let mut hart = hart(far, 0);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), hart.pc()), (3, Gpa::new(far + 4)));
}

#[test]
fn a_program_goes_on_behind_the_end_of_a_page() {
    let mut memory = Plain::new(2);
    memory.put_words(0, &[NOP; 1024]);
    memory.put_words(0x1000, &[COUNT, ECALL]);
    let mut hart = hart(0, 0);
    assert_eq!(hart.run(&mut memory, 2000), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), hart.instret()), (1, 1025));
}

#[test]
fn what_is_no_instruction_says_where_and_what_and_is_not_passed() {
    // csrw time, a2; csrr a2, mhartid; a compressed nop; ones; zeros.
    for word in [0xc016_1073, 0xf140_2673, 0x0000_0001, u32::MAX, 0] {
        let (mut hart, mut memory) = started(&[NOP, word], 0, 0);
        let exit = Exit::Illegal { pc: Gpa::new(4), word };
        assert_eq!(hart.run(&mut memory, ENOUGH), exit);
        assert_eq!(hart.run(&mut memory, ENOUGH), exit);
        assert_eq!((hart.pc(), hart.instret()), (Gpa::new(4), 1));
    }
}

#[test]
fn a_wait_is_done_and_a_breakpoint_is_not() {
    let (mut hart, mut memory) = started(&[WFI, EBREAK], 0, 0);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Wfi);
    assert_eq!((hart.pc(), hart.instret()), (Gpa::new(4), 1));
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Breakpoint);
    assert_eq!((hart.pc(), hart.instret()), (Gpa::new(4), 1));
}

#[test]
fn skip_counts_the_call_that_somebody_else_performed() {
    let (mut hart, mut memory) = started(&[ECALL, COUNT, ECALL], 0, 0);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.pc(), hart.instret()), (Gpa::new(0), 0));
    hart.skip();
    assert_eq!((hart.pc(), hart.instret()), (Gpa::new(4), 1));
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), hart.instret()), (1, 2));
}

#[test]
fn counters_read_the_time_given_and_what_retired_before_them() {
    // rdcycle, rdinstret, csrrc a2, instret, zero: the third instruction each.
    for counter in [0xc000_2673, 0xc020_2673, 0xc020_3673] {
        let (mut hart, mut memory) = started(&[NOP, NOP, counter, ECALL], 0, 0);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!((hart.x(Reg::A2), hart.instret()), (2, 3));
    }
    // rdtime, csrrsi a2, time, 0.
    for time in [0xc010_2673, 0xc010_6673] {
        let (mut hart, mut memory) = started(&[time, ECALL], 0, 0);
        hart.set_time(123_456);
        assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
        assert_eq!(hart.x(Reg::A2), 123_456);
    }
}

#[test]
fn counters_count_across_branches_and_runs() {
    // rdinstret a2; j .-4
    let (mut hart, mut memory) = started(&[0xc020_2673, BACK], 0, 0);
    for _ in 0..5 {
        assert_eq!(hart.run(&mut memory, 3), Exit::Budget);
        assert_eq!(hart.pc(), Gpa::new(0));
        assert_eq!(hart.x(Reg::A2), hart.instret() - 2);
    }
}

#[test]
fn the_zero_register_takes_nothing() {
    // addi zero, zero, 1; add a2, zero, zero; ecall
    let (mut hart, mut memory) = started(&[0x0010_0013, 0x0000_0633, ECALL], 0, 0);
    hart.set_x(Reg::ZERO, 7);
    assert_eq!(hart.run(&mut memory, ENOUGH), Exit::Ecall);
    assert_eq!((hart.x(Reg::A2), hart.x(Reg::ZERO)), (0, 0));
}

#[test]
fn a_budget_of_nothing_runs_nothing() {
    let (mut hart, mut memory) = started(&[COUNT, BACK], 0, 0);
    assert_eq!(hart.run(&mut memory, 0), Exit::Budget);
    assert_eq!((hart.instret(), memory.fetches), (0, 0));
}

proptest! {
    #[test]
    fn a_budget_is_used_up_and_passed_by_no_more_than_a_page(budget in 1u64..5000, body in 1usize..1500) {
        let mut memory = Plain::new(3);
        memory.put_words(0, &vec![COUNT; body]);
        // jr a3, which is 0.
        memory.put_words(4 * body as u64, &[0x0006_8067]);
        let mut hart = hart(0, 0);
        prop_assert_eq!(hart.run(&mut memory, budget), Exit::Budget);
        prop_assert!((budget..=budget + 1024).contains(&hart.instret()));
    }

    #[test]
    fn cutting_a_run_into_pieces_changes_nothing(pieces in prop::collection::vec(1u64..40, 1..20)) {
        let program = [COUNT, 0xc020_2673, SD, COUNT, BACK];
        let (mut cut, mut memory) = started(&program, DATA, 5);
        for piece in pieces {
            prop_assert_eq!(cut.run(&mut memory, piece), Exit::Budget);
        }
        let (mut whole, mut memory) = started(&program, DATA, 5);
        prop_assert_eq!(whole.run(&mut memory, cut.instret()), Exit::Budget);
        prop_assert_eq!(whole.save(), cut.save());
    }
}
