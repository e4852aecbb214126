//! Images that are sound, broken in one way, and broken at random.

use super::*;
use crate::RAM_BASE;
use crate::guests::Builtin;
use proptest::prelude::*;
use vellum_pte::Gfn;

/// Where fields of the header are, by the ELF specification.
const TYPE: usize = 16;
const MACHINE: usize = 18;
const ENTRY: usize = 24;
const TABLE: usize = 32;
const FLAGS: usize = 48;
const TABLE_ENTRY_SIZE: usize = 54;
const TABLE_LENGTH: usize = 56;
/// Where fields of the only segment are.
const SEGMENT: usize = 64;
const SEGMENT_OFFSET: usize = SEGMENT + 8;
const SEGMENT_AT: usize = SEGMENT + 24;
const SEGMENT_FILE: usize = SEGMENT + 32;
const SEGMENT_MEMORY: usize = SEGMENT + 40;

const PAGES: u64 = 512;

fn sound() -> Vec<u8> {
    Builtin::Idle.elf().expect("it assembles")
}

/// A sound file with some bytes at `at` replaced.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = sound();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn with_double(at: usize, value: u64) -> Vec<u8> {
    with(at, &value.to_le_bytes())
}

fn ram() -> GfnRange {
    GfnRange::new(RAM_BASE, PAGES).expect("in range")
}

fn error_of(file: &[u8]) -> ElfError {
    Image::parse(file).expect_err("it is broken")
}

/// A sound file of two segments: `first`, then the program's.
fn with_segment_before(kind: u32, file_size: u64) -> Vec<u8> {
    let mut file = sound();
    file.copy_within(SEGMENT..SEGMENT + 56, SEGMENT + 56);
    file[TABLE_LENGTH] = 2;
    file[SEGMENT..SEGMENT + 4].copy_from_slice(&kind.to_le_bytes());
    file[SEGMENT_FILE..SEGMENT_FILE + 8].copy_from_slice(&file_size.to_le_bytes());
    file
}

#[test]
fn every_guest_is_one_segment_entered_at_its_start() {
    for guest in Builtin::ALL {
        let file = guest.elf().expect("it assembles");
        let image = Image::parse(&file).expect("sound");
        let [segment] = image.segments() else { panic!("{guest}: {:?}", image.segments()) };
        assert_eq!((image.entry(), segment.at), (RAM_BASE.gpa(), RAM_BASE.gpa()));
        assert_eq!(segment.bytes, file[4096..]);
        assert_eq!(segment.size, segment.bytes.len() as u64);
    }
}

#[test]
fn what_does_not_begin_as_an_elf_file_is_none() {
    for file in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &with(0, b"\x7eELF")] {
        assert_eq!(error_of(file), ElfError::NotElf);
    }
}

#[test]
fn a_file_that_ends_within_its_header_is_short() {
    for length in [4, 5, 6, 16, 63] {
        assert_eq!(error_of(&sound()[..length]), ElfError::ShortHeader, "{length}");
    }
}

#[test]
fn a_file_for_another_machine_says_which() {
    assert_eq!(error_of(&with(4, &[1])), ElfError::Not64Bit);
    assert_eq!(error_of(&with(5, &[2])), ElfError::BigEndian);
    assert_eq!(error_of(&with(MACHINE, &[62, 0])), ElfError::WrongMachine { found: 62 });
}

#[test]
fn a_file_that_is_not_linked_is_not_executable() {
    assert_eq!(error_of(&with(TYPE, &[3, 0])), ElfError::NotExecutable { found: 3 });
}

#[test]
fn a_file_for_extensions_that_harts_lack_is_refused() {
    assert_eq!(error_of(&with(FLAGS, &[1])), ElfError::Compressed);
    for abi in [2, 4, 6] {
        assert_eq!(error_of(&with(FLAGS, &[abi])), ElfError::FloatAbi);
    }
}

#[test]
fn a_table_beyond_the_file_is_refused() {
    assert_eq!(error_of(&with_double(TABLE, 1 << 40)), ElfError::SegmentTable);
    assert_eq!(error_of(&with_double(TABLE, u64::MAX)), ElfError::SegmentTable);
    assert_eq!(error_of(&with(TABLE_LENGTH, &[0xff, 0xfe])), ElfError::SegmentTable);
    assert_eq!(error_of(&with(TABLE_ENTRY_SIZE, &[55])), ElfError::SegmentTable);
}

#[test]
fn a_segment_beyond_the_file_is_refused() {
    for offset in [sound().len() as u64, u64::MAX - 1] {
        let found = error_of(&with_double(SEGMENT_OFFSET, offset));
        assert_eq!(found, ElfError::SegmentBytes { index: 0 });
    }
}

#[test]
fn a_segment_that_is_larger_in_the_file_than_in_memory_is_refused() {
    let file = sound().len() as u64 - 4096;
    let at = RAM_BASE.gpa();
    let found = error_of(&with_double(SEGMENT_MEMORY, file - 1));
    assert_eq!(found, ElfError::SegmentSize { index: 0, file, memory: file - 1, at });
}

#[test]
fn a_segment_that_wraps_around_is_refused() {
    let file = sound().len() as u64 - 4096;
    let at = Gpa::new(u64::MAX - 8);
    let found = error_of(&with_double(SEGMENT_AT, at.get()));
    assert_eq!(found, ElfError::SegmentSize { index: 0, file, memory: file, at });
}

#[test]
fn a_segment_is_named_by_its_place_in_the_table() {
    // A note, which is not loaded, before the segment that is broken.
    let mut file = with_segment_before(4, 0);
    file[SEGMENT_OFFSET + 56 + 7] = 1;
    assert_eq!(error_of(&file), ElfError::SegmentBytes { index: 1 });
}

#[test]
fn segments_that_are_not_loaded_do_not_count() {
    let file = with_segment_before(4, u64::MAX);
    assert_eq!(Image::parse(&file), Image::parse(&sound()));
    assert_eq!(error_of(&with(SEGMENT, &[4])), ElfError::NoSegment);
}

#[test]
fn a_file_without_a_segment_has_nothing_to_load() {
    assert_eq!(error_of(&with(TABLE_LENGTH, &[0])), ElfError::NoSegment);
}

#[test]
fn an_entry_outside_all_segments_or_between_instructions_is_refused() {
    let base = RAM_BASE.gpa().get();
    let size = sound().len() as u64 - 4096;
    for entry in [0, base - 4, base + size, base + 2] {
        let found = error_of(&with_double(ENTRY, entry));
        assert_eq!(found, ElfError::Entry { entry: Gpa::new(entry) });
    }
    let last = Image::parse(&with_double(ENTRY, base + size - 4)).expect("sound");
    assert_eq!(last.entry(), Gpa::new(base + size - 4));
}

#[test]
fn zeros_behind_a_segments_bytes_need_room_and_are_not_written() {
    let room = PAGES << PAGE_SHIFT;
    let written = |memory| {
        let image = Image::parse(&with_double(SEGMENT_MEMORY, memory)).expect("sound");
        let mut count = 0;
        let placed = image.place(ram(), |_, bytes| {
            count += bytes.len();
            Ok::<_, ()>(())
        });
        placed.map(|()| count)
    };
    assert_eq!(written(room), Ok(sound().len() - 4096));
    let error = PlaceError::OutsideRam { at: RAM_BASE.gpa(), size: room + 1 };
    assert_eq!(written(room + 1), Err(error));
}

#[test]
fn an_image_outside_ram_is_refused_before_anything_is_written() {
    let image = Image::parse(&sound()).expect("sound");
    for ram in [GfnRange::new(Gfn::new(RAM_BASE.get() + 1), 9), GfnRange::new(Gfn::new(0), 9)] {
        let placed = image.place(ram.expect("in range"), |_, _| Err(()));
        assert!(matches!(placed, Err(PlaceError::OutsideRam { .. })));
    }
}

#[test]
fn what_memory_says_is_handed_on() {
    let image = Image::parse(&sound()).expect("sound");
    assert_eq!(image.place(ram(), |_, _| Err("full")), Err(PlaceError::Memory("full")));
}

/// Parses and places; whatever is written is within RAM.
fn stays_within_ram(file: &[u8]) {
    let Ok(image) = Image::parse(file) else { return };
    let (first, end) = (ram().first().gpa().get(), ram().end().gpa().get());
    let _ = image.place(ram(), |at, bytes| {
        assert!(at.get() >= first && at.get() + bytes.len() as u64 <= end);
        Ok::<_, ()>(())
    });
}

fn guest() -> impl Strategy<Value = Vec<u8>> {
    let files = Builtin::ALL.map(|guest| guest.elf().expect("it assembles"));
    prop::sample::select(files.to_vec())
}

proptest! {
    #[test]
    fn a_truncated_image_is_refused(file in guest(), length: prop::sample::Index) {
        prop_assert!(Image::parse(&file[..length.index(file.len())]).is_err());
    }

    #[test]
    fn flipped_bits_never_place_outside_ram(
        file in guest(),
        flips in prop::collection::vec((0usize..SEGMENT + 56, 0u32..8), 1..5),
        more in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 0..5),
    ) {
        let mut file = file;
        for (at, bit) in flips {
            file[at] ^= 1 << bit;
        }
        for (at, bit) in more {
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
        }
        stays_within_ram(&file);
    }

    #[test]
    fn numbers_of_any_size_in_the_segment_never_place_outside_ram(
        field in prop::sample::select(vec![SEGMENT_OFFSET, SEGMENT_AT, SEGMENT_FILE, SEGMENT_MEMORY]),
        value in prop_oneof![
            any::<u64>(),
            (0u64..64).prop_map(|bit| 1 << bit),
            (0u64..0x4000).prop_map(|near| (RAM_BASE.gpa().get() - 0x2000) + near),
        ],
    ) {
        stays_within_ram(&with_double(field, value));
    }
}
