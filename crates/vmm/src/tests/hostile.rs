//! Bytes that are no state.

use super::presence;
use crate::state::{Part, seal};
use crate::{Config, Guest, MachineState, StateError};
use std::collections::HashMap;

/// A state of one vCPU as bytes, without their seal.
fn bytes() -> Option<Vec<u8>> {
    let config = Config::new(8 << 20, 1);
    let (machine, _) = presence::machine(&config, &Guest::Idle.program())?;
    let mut bytes = machine.save().expect("a state").to_bytes();
    bytes.truncate(bytes.len() - 32);
    Some(bytes)
}

fn read(bytes: &[u8]) -> Result<MachineState, StateError> {
    MachineState::from_bytes(&seal(bytes.to_vec()))
}

/// Where the length of each part is.
fn lengths(bytes: &[u8]) -> HashMap<Part, usize> {
    let mut at = 12 + 8;
    let mut place = |part| {
        let here = at;
        at += 4 + number(bytes, at);
        (part, here)
    };
    let places = Part::ALL.into_iter().map(&mut place).collect();
    assert_eq!(at, bytes.len());
    places
}

fn number(bytes: &[u8], at: usize) -> usize {
    let number = bytes[at..at + 4].try_into().expect("four bytes");
    usize::try_from(u32::from_le_bytes(number)).expect("small")
}

fn with(bytes: &[u8], at: usize, number: u32) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[at..at + 4].copy_from_slice(&number.to_le_bytes());
    changed
}

#[test]
fn a_state_is_the_same_after_it_was_bytes() {
    let Some(bytes) = bytes() else { return };
    let state = read(&bytes).expect("a state");
    assert_eq!(state.vcpus(), 1);
    assert_eq!(state.to_bytes(), seal(bytes));
    assert_eq!(MachineState::from_bytes(&state.to_bytes()), Ok(state));
}

#[test]
fn a_bit_that_flips_anywhere_is_noticed() {
    let Some(bytes) = bytes() else { return };
    let whole = seal(bytes);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        assert_eq!(MachineState::from_bytes(&damaged), Err(StateError::Damaged), "byte {at}");
    }
}

#[test]
fn a_state_that_ends_early_is_refused_wherever_it_ends() {
    let Some(bytes) = bytes() else { return };
    for end in 0..bytes.len() {
        assert_eq!(read(&bytes[..end]), Err(StateError::TooShort), "{end} bytes");
    }
    for end in 0..40 {
        assert!(MachineState::from_bytes(&bytes[..end]).is_err());
    }
}

#[test]
fn a_state_with_more_behind_it_is_refused() {
    let Some(mut bytes) = bytes() else { return };
    bytes.extend_from_slice(&[0; 5]);
    assert_eq!(read(&bytes), Err(StateError::TooLong(5)));
}

#[test]
fn numbers_that_cannot_be_are_named() {
    let Some(bytes) = bytes() else { return };
    for version in [0, 2, u32::MAX] {
        assert_eq!(read(&with(&bytes, 0, version)), Err(StateError::Version(version)));
    }
    for vcpus in [0, 65, u32::MAX] {
        assert_eq!(read(&with(&bytes, 4, vcpus)), Err(StateError::Vcpus(vcpus)));
    }
    for end in [3, u32::MAX] {
        assert_eq!(read(&with(&bytes, 8, end)), Err(StateError::Field(end)));
    }
    assert_eq!(read(&with(&bytes, 4, 2)), Err(StateError::TooShort), "one of two vCPUs");
}

#[test]
fn a_part_that_promises_more_than_there_is_is_refused() {
    let Some(bytes) = bytes() else { return };
    for (part, at) in lengths(&bytes) {
        let refused = read(&with(&bytes, at, u32::MAX));
        assert_eq!(refused, Err(StateError::TooShort), "{part}");
    }
}

/// `bytes` with the content of a part replaced.
fn replaced(bytes: &[u8], part: Part, content: &[u8]) -> Vec<u8> {
    let at = lengths(bytes)[&part];
    let after = at + 4 + number(bytes, at);
    let length = u32::try_from(content.len()).expect("small").to_le_bytes();
    [&bytes[..at], &length, content, &bytes[after..]].concat()
}

#[test]
fn a_part_of_another_size_is_refused_by_name() {
    let Some(bytes) = bytes() else { return };
    for (part, at) in lengths(&bytes) {
        let length = number(&bytes, at);
        // Lists may be longer and shorter, and the area for XSAVE longer; none by one byte, or so long.
        let wrong = match part {
            Part::Cpuid => vec![length + 1, 257 * 40],
            Part::Msrs => vec![length + 1, 4097 * 16],
            Part::Xsave => vec![0, 4095, 65_537],
            _ => vec![0, length - 1, length + 1, 2 * length],
        };
        for found in wrong {
            let refused = read(&replaced(&bytes, part, &vec![0; found]));
            assert_eq!(refused, Err(StateError::Size { part, found }), "{part}");
        }
    }
}

#[test]
fn any_bytes_are_a_state_or_an_error() {
    let Some(bytes) = bytes() else { return };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut draw = |below: usize| usize::try_from(next() % below as u64).expect("below a length");
    for _ in 0..3000 {
        let mut changed = bytes.clone();
        for _ in 0..=draw(4) {
            let at = draw(changed.len());
            changed[at] = draw(256).to_le_bytes()[0];
        }
        changed.truncate(changed.len() - draw(3) * draw(changed.len() / 4));
        if let Ok(state) = read(&changed) {
            assert_eq!(read(&state.to_bytes()[..state.to_bytes().len() - 32]), Ok(state));
        }
    }
}
