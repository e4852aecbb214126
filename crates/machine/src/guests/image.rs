//! A program as an ELF file: a header, one segment, and its words.

use vellum_pte::Gpa;

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const RISCV: u64 = 243;
const EXECUTABLE: u64 = 2;
const LOAD: u64 = 1;
const READ_WRITE_EXECUTE: u64 = 7;
const ALIGN: usize = 4096;

/// An ELF64 file whose words, as [`Assembler::finish`](super::assembler::Assembler::finish) gives
/// them, go to `base`, where the entry is too.
#[must_use]
pub fn elf(base: Gpa, words: &[u32]) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    header(&mut file, base);
    segment(&mut file, base, 4 * words.len() as u64);
    file.resize(ALIGN, 0);
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file
}

/// Puts in numbers of so many bytes each.
fn put(file: &mut Vec<u8>, fields: &[(u64, usize)]) {
    for (value, bytes) in fields {
        file.extend_from_slice(&value.to_le_bytes()[..*bytes]);
    }
}

/// What follows `e_ident`.
fn header(file: &mut Vec<u8>, entry: Gpa) {
    let sections_at = 0;
    let flags = 0;
    put(file, &[(EXECUTABLE, 2), (RISCV, 2), (1, 4)]);
    put(file, &[(entry.get(), 8), (HEADER, 8), (sections_at, 8), (flags, 4)]);
    put(file, &[(HEADER, 2), (PROGRAM_HEADER, 2), (1, 2), (0, 2), (0, 2), (0, 2)]);
}

fn segment(file: &mut Vec<u8>, at: Gpa, size: u64) {
    put(file, &[(LOAD, 4), (READ_WRITE_EXECUTE, 4), (ALIGN as u64, 8)]);
    put(file, &[(at.get(), 8), (at.get(), 8), (size, 8), (size, 8), (ALIGN as u64, 8)]);
}
