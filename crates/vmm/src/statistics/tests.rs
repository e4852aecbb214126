use super::{At, StatisticsError, parse};
use std::io;

impl At for Vec<u8> {
    fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).expect("small");
        let there = self.get(from..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file with names of 8 bytes and these numbers in its header.
fn file(name: u32, count: u32) -> Vec<u8> {
    let header = [0, name, count, 24, 24, 72];
    let mut file: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for (text, offset) in [(b"exits\0\0\0", 8_u32), (b"full\0xxx", 0)] {
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(&offset.to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        file.extend_from_slice(text);
    }
    file.extend_from_slice(&7_u64.to_le_bytes());
    file.extend_from_slice(&9_u64.to_le_bytes());
    file
}

#[test]
fn numbers_are_found_by_their_names() {
    let found = parse(&file(8, 2)).expect("a file as the kernel makes it");
    assert_eq!(found, [("exits".to_owned(), 9), ("full".to_owned(), 7)].into());
}

#[test]
fn a_file_that_promises_too_much_is_refused() {
    for (name, count) in [(u32::MAX, 2), (4097, 1), (8, u32::MAX), (8, 4097)] {
        let refused = parse(&file(name, count));
        assert!(matches!(refused, Err(StatisticsError::Shape { .. })), "{refused:?}");
    }
}

#[test]
fn a_file_that_ends_early_is_an_error_wherever_it_ends() {
    let whole = file(8, 2);
    for end in 0..whole.len() {
        let refused = parse(&whole[..end].to_vec());
        assert!(matches!(refused, Err(StatisticsError::Read(_))), "{end}: {refused:?}");
    }
}
