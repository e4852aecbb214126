//! What moves with a hart, as bytes.

use super::super::{HartState, StateError};
use super::*;

fn bytes_of(id: u64, pc: u64, instret: u64, x: &[u64]) -> Vec<u8> {
    [id, pc, instret].iter().chain(x).flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn a_state_is_its_words_in_order() {
    let mut hart = Hart::new(2, Gpa::new(0x104), 0xb);
    hart.set_x(Reg::RA, 0xa);
    hart.set_x(Reg::T6, 0xc);
    let mut x = [0; 31];
    (x[0], x[9], x[10], x[30]) = (0xa, 2, 0xb, 0xc);
    assert_eq!(hart.save().to_bytes().as_slice(), bytes_of(2, 0x104, 0, &x));
}

#[test]
fn a_restored_hart_goes_on_where_the_saved_one_was() {
    let (mut hart, mut memory) = started(&[COUNT, COUNT, BACK], 0, 0);
    let _ = hart.run(&mut memory, 10);
    let bytes = hart.save().to_bytes();
    let mut moved = Hart::restore(&HartState::from_bytes(&bytes).expect("just saved"));
    assert_eq!(hart.run(&mut memory, 10), moved.run(&mut memory, 10));
    assert_eq!(hart.save(), moved.save());
}

#[test]
fn a_state_of_another_length_is_refused() {
    for length in [0, 1, HartState::BYTES - 8, HartState::BYTES - 1, HartState::BYTES + 1, 4096] {
        let found = HartState::from_bytes(&vec![0; length]);
        assert_eq!(found, Err(StateError::Length { found: length }));
    }
}

#[test]
fn a_program_counter_between_instructions_is_refused() {
    let found = HartState::from_bytes(&bytes_of(0, 6, 0, &[0; 31]));
    assert_eq!(found, Err(StateError::MisalignedPc { pc: Gpa::new(6) }));
}

#[test]
fn a_count_that_could_overflow_is_refused() {
    let most = i64::MAX.cast_unsigned();
    assert!(HartState::from_bytes(&bytes_of(0, 0, most, &[0; 31])).is_ok());
    let found = HartState::from_bytes(&bytes_of(0, 0, most + 1, &[0; 31]));
    assert_eq!(found, Err(StateError::Instret { found: most + 1 }));
}

proptest! {
    #[test]
    fn states_survive_their_bytes(
        id: u64,
        pc in any::<u64>().prop_map(|pc| pc & !3),
        instret in 0..=i64::MAX.cast_unsigned(),
        x in prop::collection::vec(any::<u64>(), 31),
    ) {
        let bytes = bytes_of(id, pc, instret, &x);
        let state = HartState::from_bytes(&bytes).expect("sound");
        prop_assert_eq!((state.id(), state.pc().get(), state.instret()), (id, pc, instret));
        prop_assert_eq!(state.to_bytes().to_vec(), bytes);
        let hart = Hart::restore(&state);
        for (number, value) in (1..).zip(x) {
            prop_assert_eq!(hart.x(Reg::new(number).expect("31 of them")), value);
        }
        prop_assert_eq!(hart.save(), state);
    }

    /// Hostile bytes are refused or make a hart that runs: no panic, in memory or out of it.
    #[test]
    fn any_bytes_make_a_hart_that_runs_or_none(
        bytes in prop::collection::vec(any::<u8>(), HartState::BYTES),
        low in any::<bool>(),
    ) {
        let mut bytes = bytes;
        bytes[8] &= !3;
        if low {
            bytes[9..24].fill(0);
        }
        bytes[23] &= 0x7f;
        let mut hart = Hart::restore(&HartState::from_bytes(&bytes).expect("now it is sound"));
        let mut memory = Plain::with_program(3, &[NOP; 1024]);
        memory.put_words(4 << 8, &[SD, LD, AMOADD, JUMP]);
        let _ = hart.run(&mut memory, 10);
    }
}
