//! Which writes of `vm-memory` are in the log, one by one, and which are not. `docs/devices.md` says
//! the same in a table.
#![cfg(unix)]

use std::fs::File;
use std::io::{Cursor, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vellum_memory::guest::{Logged, LoggedSlice, ViewError, logged_view};
use vellum_memory::{
    AddressSpace, DeviceLog, DirtySource, Gfn, GfnRange, Gpa, Layout, Mark, Marker, PageSet,
    Region, SlotId,
};
use vm_memory::bitmap::Bitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MemoryRegionAddress, VolatileArrayRef, VolatileMemory, VolatileSlice,
};

type View = GuestMemoryMmap<Logged<Marker>>;
type Slice<'a> = VolatileSlice<'a, LoggedSlice<'a, Marker>>;
type Array<'a> = VolatileArrayRef<'a, u32, LoggedSlice<'a, Marker>>;

const PAGE: u64 = 4096;
/// Two regions that touch, and one apart.
const REGIONS: [(u64, u64); 3] = [(0x10, 5), (0x15, 3), (0x40, 70)];

fn layout(space: AddressSpace) -> Layout {
    let regions = (0..).zip(REGIONS).map(|(slot, (first, pages))| {
        let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
        Region { slot: SlotId(slot), space, range }
    });
    Layout::new(regions.collect()).expect("no overlap")
}

fn memory() -> GuestMemoryMmap {
    let bytes = |pages| usize::try_from(pages * PAGE).expect("a size");
    let ranges = REGIONS.map(|(first, pages)| (GuestAddress(first * PAGE), bytes(pages)));
    GuestMemoryMmap::from_ranges(&ranges).expect("memory for a test")
}

fn started(space: AddressSpace) -> (DeviceLog, Marker) {
    let mut log = DeviceLog::new(&layout(space)).expect("memory for a test");
    log.start().expect("it starts");
    let marker = log.marker();
    (log, marker)
}

/// The guest frames that a round holds.
fn frames(log: &mut DeviceLog) -> Vec<u64> {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("it is on");
    let frames = round.regions().iter().flat_map(|set| {
        let first = set.region().range.first().get();
        set.pages().map(move |page| first + page)
    });
    frames.collect()
}

/// The frames that are dirty after `write` has had a view.
fn dirtied_by(write: impl FnOnce(&View)) -> Vec<u64> {
    let (mut log, marker) = started(AddressSpace::NORMAL);
    write(&logged_view(&memory(), AddressSpace::NORMAL, &marker).expect("a view"));
    frames(&mut log)
}

/// The last eight bytes of frame 0x41 and all of 0x42: what most writes below are given.
const AT: GuestAddress = GuestAddress(0x42 * PAGE - 8);
const LENGTH: usize = 8 + 4096;

/// The same as a slice.
fn dirtied_in_slice(write: impl FnOnce(Slice<'_>)) -> Vec<u64> {
    dirtied_by(|view| write(view.get_slice(AT, LENGTH).expect("in memory")))
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("room");
    file.rewind().expect("a file");
    file
}

#[test]
fn every_write_of_bytes_is_logged() {
    let data = [7u8; LENGTH];
    let both = [0x41, 0x42];
    assert_eq!(dirtied_by(|view| assert_eq!(view.write(&data, AT).expect("fits"), LENGTH)), both);
    assert_eq!(dirtied_by(|view| view.write_slice(&data, AT).expect("fits")), both);
    assert_eq!(dirtied_by(|view| view.write_obj(7u128, AT).expect("fits")), both);
    assert_eq!(
        dirtied_by(|view| {
            view.read_volatile_from(AT, &mut data.as_slice(), LENGTH).expect("fits");
        }),
        both
    );
    assert_eq!(
        dirtied_by(|view| {
            view.read_exact_volatile_from(AT, &mut Cursor::new(data), LENGTH).expect("fits");
        }),
        both
    );
    let store = |view: &View| view.store(7u64, AT, Ordering::Relaxed).expect("aligned");
    assert_eq!(dirtied_by(store), [0x41]);
}

#[test]
fn every_write_of_bytes_to_a_region_is_logged() {
    let region_at = MemoryRegionAddress(2 * PAGE - 8);
    let write = |write: &dyn Fn(&GuestRegionMmap<Logged<Marker>>)| {
        dirtied_by(|view| write(view.find_region(AT).expect("in memory")))
    };
    let data = [7u8; LENGTH];
    let both = [0x41, 0x42];
    assert_eq!(write(&|region| region.write_slice(&data, region_at).expect("fits")), both);
    assert_eq!(write(&|region| region.write_obj(7u128, region_at).expect("fits")), both);
    let store = |region: &GuestRegionMmap<_>| {
        region.store(7u8, region_at, Ordering::SeqCst).expect("fits");
    };
    assert_eq!(write(&store), [0x41]);
}

#[test]
fn every_write_of_a_slice_is_logged() {
    let both = [0x41, 0x42];
    assert_eq!(dirtied_in_slice(|slice| slice.copy_from(&[7u8; LENGTH])), both);
    assert_eq!(dirtied_in_slice(|slice| slice.copy_from(&[7u32; LENGTH / 4])), both);
    assert_eq!(dirtied_in_slice(|slice| slice.write_obj(7u128, 0).expect("fits")), both);
    assert_eq!(dirtied_in_slice(|slice| slice.write_obj(7u64, 8).expect("fits")), [0x42]);
    assert_eq!(
        dirtied_in_slice(|slice| {
            let mut source = [7u8; LENGTH];
            VolatileSlice::from(&mut source[..]).copy_to_volatile_slice(slice);
        }),
        both
    );
    let store = |slice: Slice<'_>| slice.store(7u32, 4, Ordering::Relaxed).expect("aligned");
    assert_eq!(dirtied_in_slice(store), [0x41]);
}

#[test]
fn every_write_of_a_reference_and_of_an_array_is_logged() {
    let both = [0x41, 0x42];
    assert_eq!(
        dirtied_in_slice(|slice| slice.get_ref::<u128>(0).expect("fits").store(7)),
        both,
        "unaligned, over the end of a page"
    );
    let array = |write: &dyn Fn(Array<'_>)| {
        dirtied_in_slice(|slice| write(slice.get_array_ref(0, LENGTH / 4).expect("fits")))
    };
    assert_eq!(array(&|array| array.store(1, 7)), [0x41]);
    assert_eq!(array(&|array| array.store(2, 7)), [0x42]);
    assert_eq!(array(&|array| array.ref_at(2).store(7)), [0x42]);
    assert_eq!(array(&|array| array.copy_from(&[7; 2])), [0x41]);
    assert_eq!(array(&|array| array.copy_from(&[7; 3])), both);
    assert_eq!(array(&|array| array.to_slice().copy_from(&[7u8; 9])), both);
    let bytes = |slice: Slice<'_>| {
        slice.get_array_ref::<u8>(0, 9).expect("fits").copy_from(&[7; 9]);
    };
    assert_eq!(dirtied_in_slice(bytes), both);
    let copied = |slice: Slice<'_>| {
        let mut source = [7u8; 9];
        let source = VolatileSlice::from(&mut source[..]);
        source.get_array_ref::<u8>(0, 9).expect("fits").copy_to_volatile_slice(slice);
    };
    assert_eq!(dirtied_in_slice(copied), both);
}

#[test]
fn parts_of_a_slice_know_where_they_are() {
    let second = [0x42];
    let part = |part: &dyn Fn(Slice<'_>)| dirtied_in_slice(part);
    assert_eq!(part(&|slice| slice.offset(8).expect("fits").copy_from(&[7u8])), second);
    assert_eq!(part(&|slice| slice.subslice(8, 1).expect("fits").copy_from(&[7u8])), second);
    assert_eq!(part(&|slice| slice.split_at(8).expect("fits").1.copy_from(&[7u8])), second);
    assert_eq!(part(&|slice| slice.split_at(8).expect("fits").0.copy_from(&[7u8])), [0x41]);
    let deep = |slice: Slice<'_>| {
        let deeper = slice.subslice(4, 100).expect("fits").offset(4).expect("fits");
        deeper.get_slice(0, 1).expect("fits").copy_from(&[7u8]);
    };
    assert_eq!(part(&deep), second);
}

#[test]
fn a_write_over_two_regions_is_logged_in_both() {
    let across = GuestAddress(0x15 * PAGE - 1);
    assert_eq!(dirtied_by(|view| view.write_slice(&[7; 2], across).expect("fits")), [0x14, 0x15]);
    assert_eq!(
        dirtied_by(|view| view.get_slices(across, 2).for_each(|slice| {
            slice.expect("in memory").copy_from(&[7u8]);
        })),
        [0x14, 0x15]
    );
}

#[test]
fn a_write_to_the_last_byte_of_a_page_leaves_the_next_alone() {
    let at = GuestAddress(0x42 * PAGE);
    assert_eq!(dirtied_by(|view| view.write_slice(&[7; 4096], at).expect("fits")), [0x42]);
    let empty = |view: &View| {
        assert_eq!(view.write(&[], at).expect("nothing to do"), 0);
        view.get_slice(at, 0).expect("in memory").copy_from(&[7u8; 4]);
    };
    assert!(dirtied_by(empty).is_empty());
}

#[test]
fn what_is_read_from_a_file_is_logged_as_far_as_it_came() {
    let read = |bytes: usize, count: usize| {
        dirtied_by(|view| {
            let mut file = file_of(&vec![7; bytes]);
            let done = view.read_volatile_from(AT, &mut file, count).expect("it can be read");
            assert_eq!(done, bytes.min(count));
        })
    };
    assert_eq!(read(LENGTH, LENGTH), [0x41, 0x42]);
    assert_eq!(read(8, LENGTH), [0x41], "the file ended with the page");
    assert_eq!(read(9, LENGTH), [0x41, 0x42]);
    assert!(read(0, LENGTH).is_empty(), "nothing was written");
    let short = |view: &View| {
        let mut file = file_of(&[7; 8]);
        view.read_exact_volatile_from(AT, &mut file, LENGTH).expect_err("it is too short");
    };
    assert_eq!(dirtied_by(short), [0x41], "an error, after a write");
}

#[test]
fn a_read_that_fails_is_logged_as_if_it_had_filled_everything() {
    let failing = |view: &View| {
        let mut writer = File::options().write(true).open("/dev/null").expect("it is there");
        view.read_volatile_from(AT, &mut writer, LENGTH).expect_err("not open for reading");
    };
    assert_eq!(dirtied_by(failing), [0x41, 0x42]);
}

#[test]
fn what_is_refused_or_only_reads_marks_nothing() {
    let quiet = |view: &View| {
        view.write_slice(&[7; 2], GuestAddress(0x100 * PAGE)).expect_err("no memory there");
        view.store(7u64, GuestAddress(AT.0 + 1), Ordering::Relaxed).expect_err("misaligned");
        view.read_obj::<u64>(AT).expect("in memory");
        view.read_slice(&mut [0; 100], AT).expect("in memory");
        view.load::<u64>(AT, Ordering::Relaxed).expect("in memory");
        view.write_volatile_to(AT, &mut Vec::new(), LENGTH).expect("in memory");
        let slice = view.get_slice(AT, LENGTH).expect("in memory");
        slice.copy_to(&mut [0u8; 100]);
        slice.get_ref::<u64>(0).expect("fits").load();
        let mut away = [0u8; 100];
        slice.copy_to_volatile_slice(VolatileSlice::from(&mut away[..]));
    };
    assert!(dirtied_by(quiet).is_empty());
}

/// What vm-memory gives out for writing past it is not logged, at any time.
#[test]
fn pointers_and_references_are_not_logged() {
    let unseen = |view: &View| {
        let slice = view.get_slice(AT, LENGTH).expect("in memory");
        let host = view.get_host_address(AT).expect("in memory");
        assert_eq!(slice.ptr_guard_mut().as_ptr(), host);
        assert_eq!(slice.get_ref::<u64>(0).expect("fits").ptr_guard_mut().as_ptr(), host);
        assert_eq!(slice.get_array_ref::<u64>(0, 2).expect("fits").ptr_guard_mut().as_ptr(), host);
        // This one is safe Rust, and a write.
        slice.get_atomic_ref::<AtomicU64>(0).expect("aligned").store(7, Ordering::Relaxed);
        assert_eq!(view.read_obj::<u64>(AT).expect("in memory"), 7);
    };
    assert!(dirtied_by(unseen).is_empty());
}

#[test]
fn who_writes_through_a_pointer_can_mark_the_slice_the_region_or_the_log() {
    let mark_slice = |slice: Slice<'_>| slice.bitmap().mark_dirty(0, LENGTH);
    assert_eq!(dirtied_in_slice(mark_slice), [0x41, 0x42]);
    let mark_region = |view: &View| {
        view.find_region(AT).expect("in memory").bitmap().mark_dirty(8192, 1);
    };
    assert_eq!(dirtied_by(mark_region), [0x42]);
    let (mut log, marker) = started(AddressSpace::NORMAL);
    marker.mark_bytes(AddressSpace::NORMAL, Gpa::new(AT.0), 9);
    marker.mark_bytes(AddressSpace::NORMAL, Gpa::new(0x10 * PAGE), 0);
    assert_eq!(frames(&mut log), [0x41, 0x42]);
    marker.mark_bytes(AddressSpace::NORMAL, Gpa::new(0x85 * PAGE), u64::MAX);
    assert_eq!(frames(&mut log), [0x85], "to the last address there is");
}

#[test]
fn a_slice_says_what_is_marked_until_it_is_collected() {
    let (mut log, marker) = started(AddressSpace::NORMAL);
    let view = logged_view(&memory(), AddressSpace::NORMAL, &marker).expect("a view");
    let slice = view.get_slice(AT, LENGTH).expect("in memory");
    assert!(!slice.bitmap().dirty_at(0));
    slice.store(7u64, 8, Ordering::Relaxed).expect("aligned");
    assert!(!slice.bitmap().dirty_at(7) && slice.bitmap().dirty_at(8));
    assert!(view.find_region(AT).expect("in memory").bitmap().dirty_at(8192));
    frames(&mut log);
    assert!(!slice.bitmap().dirty_at(8));
}

#[test]
fn a_view_of_one_address_space_marks_nothing_in_another() {
    let (mut log, marker) = started(AddressSpace::SMM);
    let view = logged_view(&memory(), AddressSpace::NORMAL, &marker).expect("a view");
    view.write_obj(7u64, AT).expect("in memory");
    assert!(frames(&mut log).is_empty());
    let view = logged_view(&memory(), AddressSpace::SMM, &marker).expect("a view");
    view.write_obj(7u64, AT).expect("in memory");
    assert_eq!(frames(&mut log), [0x41]);
}

#[test]
fn a_view_is_the_same_memory_and_only_its_own_writes_are_logged() {
    let (mut log, marker) = started(AddressSpace::NORMAL);
    let memory = memory();
    let view = logged_view(&memory, AddressSpace::NORMAL, &marker).expect("a view");
    memory.write_obj(5u64, AT).expect("in memory");
    assert_eq!(view.read_obj::<u64>(AT).expect("in memory"), 5);
    assert!(frames(&mut log).is_empty(), "who holds the unlogged memory is not logged");
    view.write_obj(6u64, AT).expect("in memory");
    assert_eq!(memory.read_obj::<u64>(AT).expect("in memory"), 6);
    assert_eq!(frames(&mut log), [0x41]);
}

#[test]
fn a_view_keeps_the_memory_it_shows() {
    let (_log, marker) = started(AddressSpace::NORMAL);
    let memory = memory();
    let mapping = Arc::downgrade(&memory.find_region(AT).expect("in memory").get_mmap());
    let view = logged_view(&memory, AddressSpace::NORMAL, &marker).expect("a view");
    drop(memory);
    assert!(mapping.upgrade().is_some(), "kept, so what follows may touch it");
    let clone = view.clone();
    drop(view);
    clone.write_obj(7u64, AT).expect("in memory");
    let last = clone.find_region(AT).expect("in memory").get_mmap();
    drop(clone);
    last.as_volatile_slice().write_obj(7u64, 0).expect("in memory");
    assert!(mapping.upgrade().is_some(), "one part of a clone of the view is left");
    drop(last);
    assert!(mapping.upgrade().is_none(), "and nothing keeps it after that");
}

#[test]
fn a_view_has_the_files_and_the_protection_of_what_it_shows() {
    let (_log, marker) = started(AddressSpace::NORMAL);
    let file = tempfile::tempfile().expect("a file");
    file.set_len(3 * PAGE).expect("room");
    let (start, size) = (GuestAddress(0x15 * PAGE), 2 * 4096);
    let file = Some(FileOffset::new(file, PAGE));
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files([(start, size, file)]);
    let memory = memory.expect("a mapping");
    let view = logged_view(&memory, AddressSpace::NORMAL, &marker).expect("a view");
    let (original, shown) = (memory.find_region(start), view.find_region(start));
    let (original, shown) = (original.expect("in memory"), shown.expect("in memory"));
    let (ours, theirs) = (shown.file_offset().expect("a file"), original.file_offset());
    assert!(Arc::ptr_eq(ours.arc(), theirs.expect("a file").arc()));
    assert_eq!(ours.start(), PAGE);
    assert_eq!((shown.prot(), shown.flags()), (original.prot(), original.flags()));
    assert_eq!(shown.as_ptr(), original.as_ptr());
    assert!(!shown.owned());
}

#[test]
fn a_view_of_no_memory_is_an_error() {
    let (_log, marker) = started(AddressSpace::NORMAL);
    let none = logged_view(&GuestMemoryMmap::new(), AddressSpace::NORMAL, &marker);
    assert!(matches!(none, Err(ViewError::Regions(_))));
}

/// A mapping that is made with the log in it, and a log known only as a `dyn Mark`.
#[test]
fn a_region_can_be_logged_from_the_beginning() {
    let (mut log, marker) = started(AddressSpace::NORMAL);
    let marks: Arc<dyn Mark + Send + Sync> = Arc::new(marker);
    let base = Gpa::new(0x40 * PAGE);
    let bitmap = Logged::new(marks, AddressSpace::NORMAL, base);
    assert!(format!("{bitmap:?}").contains("region"));
    let mapping = MmapRegionBuilder::new_with_bitmap(70 * 4096, bitmap)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .build();
    let region = GuestRegionMmap::new(mapping.expect("memory"), GuestAddress(base.get()));
    let memory = GuestMemoryMmap::from_regions(vec![region.expect("in range")]);
    memory.expect("one region").write_obj(7u64, AT).expect("in memory");
    assert_eq!(frames(&mut log), [0x41]);
}
