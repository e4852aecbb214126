//! A bitmap in a file that two sides map, as a VMM and its vhost-user back-end do.
#![cfg(unix)]

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use vellum_memory::guest::MappedBits;
use vellum_memory::{
    AddressSpace, AlwaysLogs, BitmapError, DirtySource, ForeignLog, Gfn, GfnRange, Layout, PageSet,
    Region, SharedBits, SlotId,
};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

const FIRST: u64 = 1000;
const PAGES: u64 = 67;

fn layout() -> Layout {
    let range = GfnRange::new(Gfn::new(FIRST), PAGES).expect("in range");
    let region = Region { slot: SlotId(0), space: AddressSpace::NORMAL, range };
    Layout::new(vec![region]).expect("one region")
}

fn map(file: &File, bytes: usize) -> MmapRegion {
    let file = FileOffset::new(file.try_clone().expect("a descriptor"), 0);
    MmapRegion::from_file(file, bytes).expect("a mapping")
}

/// A file with room for a bitmap of so many bytes, and both sides' mappings.
fn both_sides(bytes: usize) -> (MappedBits, MmapRegion) {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(bytes as u64).expect("room");
    (MappedBits::new(Arc::new(map(&file, bytes))), map(&file, bytes))
}

/// What a back-end does, on bytes, after writing to the page.
fn mark(back_end: &MmapRegion, page: u64) {
    let byte = usize::try_from(page / 8).expect("a byte");
    let cell = back_end.get_atomic_ref::<AtomicU8>(byte).expect("in the bitmap");
    cell.fetch_or(1 << (page % 8), Ordering::Release);
}

#[test]
fn bits_set_through_another_mapping_are_in_the_next_round() {
    let (bits, back_end) = both_sides(4096);
    let log = ForeignLog::new(&layout(), AddressSpace::NORMAL, bits, AlwaysLogs);
    let mut log = log.expect("long enough");
    log.start().expect("it starts");
    for page in [FIRST - 1, FIRST, FIRST + 24, FIRST + PAGES - 1, FIRST + PAGES] {
        mark(&back_end, page);
    }
    let mut round = PageSet::new(&layout());
    log.collect(&mut round).expect("it is on");
    assert_eq!(round.regions()[0].pages().collect::<Vec<_>>(), [0, 24, 66]);
    round.clear();
    log.collect(&mut round).expect("it is on");
    assert!(round.is_empty());
}

#[test]
fn a_mapping_ends_with_its_last_whole_word() {
    let (bits, _back_end) = both_sides(135);
    assert!(bits.word(15).is_some());
    assert!(bits.word(16).is_none(), "seven bytes of a word");
    assert!(bits.word(usize::MAX).is_none());
    let short = ForeignLog::new(&layout(), AddressSpace::NORMAL, bits, AlwaysLogs).map(|_| ());
    let page = Gfn::new(FIRST + PAGES - 1);
    assert_eq!(short, Err(BitmapError::TooShort { region: 0, page }));
}
