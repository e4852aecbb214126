use super::{GuestError, mappings};
use crate::{Capabilities, Facility, ProcessLog, WriteWatch, Writers};
use std::sync::Arc;
use vellum_memory::{AddressSpace, DirtySource, PageSet, SlotId};
use vellum_presence::{Need, given};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

const SPACE: AddressSpace = AddressSpace(1);

fn memory(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
    let ranges: Vec<_> = ranges.iter().map(|&(at, bytes)| (GuestAddress(at), bytes)).collect();
    GuestMemoryMmap::from_ranges(&ranges).expect("memory")
}

#[test]
fn regions_are_slots_in_their_order() {
    let memory = memory(&[(0, 0x4000), (0x10_0000, 0x2000)]);
    let regions = mappings(&memory, SPACE).expect("whole pages");
    let named: Vec<_> = regions.iter().map(|mapping| mapping.region()).collect();
    assert_eq!(named.iter().map(|region| region.slot).collect::<Vec<_>>(), [SlotId(0), SlotId(1)]);
    assert_eq!(named.iter().map(|region| region.range.pages()).collect::<Vec<_>>(), [4, 2]);
    assert!(named.iter().all(|region| region.space == SPACE));
    assert_eq!(named[1].range.first().get(), 0x100);
}

#[test]
fn a_region_of_no_whole_pages_is_refused() {
    for range in [(0, 0x1800), (0x800, 0x1000)] {
        let refused = mappings(&memory(&[range]), SPACE).expect_err("half a page");
        assert!(matches!(refused, GuestError::NoPages { .. }), "{refused}");
    }
}

#[test]
fn the_log_keeps_the_mappings_and_lets_them_go() {
    let region = GuestRegionMmap::new(MmapRegion::new(0x4000).expect("memory"), GuestAddress(0));
    let region = Arc::new(region.expect("it does not wrap"));
    let memory = GuestMemoryMmap::from_arc_regions(vec![Arc::clone(&region)]).expect("memory");
    let supported = Capabilities::of_this_process().supports(Facility::Log);
    let Some(()) = given(Need::PagemapScan, supported) else { return };
    let mut log = ProcessLog::of_guest(&memory, SPACE).expect("a log");
    log.start().expect("the log starts");
    memory.write_obj(1_u8, GuestAddress(0x2fff)).expect("in memory");
    drop(memory);
    assert_eq!(Arc::strong_count(&region), 2, "ours and the log's");
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("a round");
    assert_eq!(round.regions()[0].pages().collect::<Vec<_>>(), [2]);
    drop(log);
    assert_eq!(Arc::strong_count(&region), 1);
}

#[test]
fn the_watch_keeps_the_mappings_and_lets_them_go() {
    let region = GuestRegionMmap::new(MmapRegion::new(0x4000).expect("memory"), GuestAddress(0));
    let region = Arc::new(region.expect("it does not wrap"));
    let memory = GuestMemoryMmap::from_arc_regions(vec![Arc::clone(&region)]).expect("memory");
    let supported = Capabilities::of_this_process().supports(Facility::WatchThreads);
    let Some(()) = given(Need::Userfaultfd, supported) else { return };
    let watch = WriteWatch::of_guest(&memory, SPACE, Writers::Threads).expect("a watch");
    drop(memory);
    assert_eq!(Arc::strong_count(&region), 2, "ours and the watch's");
    drop(watch);
    assert_eq!(Arc::strong_count(&region), 1);
}
