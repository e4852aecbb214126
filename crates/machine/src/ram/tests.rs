use super::*;
use vellum_memory::Region;
use vellum_pte::{AddressSpace, SlotId};
use vm_memory::Bytes;

const GIB: u64 = 1 << 30;

fn range(first: u64, bytes: u64) -> GfnRange {
    GfnRange::new(Gfn::new(first / PAGE_SIZE), bytes / PAGE_SIZE).expect("in range")
}

fn ram(ranges: &[GfnRange], pages: PageSize) -> Ram {
    let regions = (0..).zip(ranges).map(|(slot, &range)| Region {
        slot: SlotId(slot),
        space: AddressSpace::NORMAL,
        range,
    });
    let layout = Layout::new(regions.collect()).expect("no overlap");
    Ram::new(&layout, pages).expect("the host has memory")
}

fn page(ram: &Ram, at: u64) -> HostPage {
    ram.page(Gfn::new(at / PAGE_SIZE)).expect("RAM is there")
}

#[test]
fn guest_and_host_memory_are_aligned_alike() {
    for pages in [PageSize::Huge2M, PageSize::Huge1G] {
        for first in [0, 3 * PAGE_SIZE, GIB - PAGE_SIZE, 5 * GIB + (6 << 20)] {
            let ram = ram(&[range(first, 3 * GIB)], pages);
            for at in [first, first + GIB + 7 * PAGE_SIZE, first + 3 * GIB - PAGE_SIZE] {
                let host = page(&ram, at).frame.address();
                assert!((host ^ at).is_multiple_of(pages.bytes()), "{pages:?} {at:#x} {host:#x}");
            }
        }
    }
}

#[test]
fn a_page_is_no_larger_than_the_memory_around_it() {
    // From 1 GiB less 2 MiB and a page, to 3 GiB and 2 MiB and a page.
    let (first, end) = (GIB - (2 << 20) - PAGE_SIZE, 3 * GIB + (2 << 20) + PAGE_SIZE);
    let ram = ram(&[range(first, end - first)], PageSize::Huge1G);
    let largest = |at| page(&ram, at).largest;
    assert_eq!(largest(first), Level::L1);
    assert_eq!(largest(GIB - (2 << 20)), Level::L2);
    assert_eq!(largest(GIB - PAGE_SIZE), Level::L2);
    assert_eq!(largest(GIB), Level::L3);
    assert_eq!(largest(3 * GIB - PAGE_SIZE), Level::L3);
    assert_eq!(largest(3 * GIB), Level::L2);
    assert_eq!(largest(end - PAGE_SIZE), Level::L1);
    assert_eq!(ram.page(Gfn::new(end / PAGE_SIZE)), None);
}

/// A board's first page, at home and away.
fn at_home_and_away(test: impl Fn(&Ram, Gfn)) {
    let first = range(GIB, 2 * PAGE_SIZE);
    let ram = ram(&[first], PageSize::Small);
    test(&ram, first.first());
    ram.move_page(first.first()).expect("the host has memory");
    test(&ram, first.first());
}

fn word(ram: &Ram, gfn: Gfn, offset: u64) -> u64 {
    // No memory holds it by chance.
    ram.compare_exchange(gfn, offset, 0x1357_9bdf_0246_8ace, &[0; 8]).expect("RAM")
}

#[test]
fn bytes_of_every_length_are_written_where_they_belong() {
    at_home_and_away(|ram, gfn| {
        for length in 1..=16 {
            for offset in 0..8 {
                ram.write(gfn, 64, &[0; 32]).expect("RAM");
                let bytes: Vec<u8> = (1..=length).collect();
                ram.write(gfn, 64 + offset, &bytes).expect("RAM");
                let found = [64, 72, 80].map(|at| word(ram, gfn, at).to_le_bytes()).concat();
                let place = usize::try_from(offset).expect("small");
                let expected = [&[0; 8][..place], &bytes, &[0; 24]].concat();
                assert_eq!(found, expected[..24], "{length} at {offset}");
            }
        }
    });
}

#[test]
fn an_exchange_puts_its_bytes_there_if_memory_holds_what_it_expects() {
    at_home_and_away(|ram, gfn| {
        ram.write(gfn, 8, &7u64.to_le_bytes()).expect("RAM");
        let exchange =
            |offset, expected, new: &[u8]| ram.compare_exchange(gfn, offset, expected, new);
        assert_eq!(exchange(8, 6, &9u64.to_le_bytes()).expect("RAM"), 7);
        assert_eq!(exchange(8, 7, &9u64.to_le_bytes()).expect("RAM"), 7);
        assert_eq!(exchange(12, 0, &5u32.to_le_bytes()).expect("RAM"), 0);
        assert_eq!(exchange(8, 9, &1u32.to_le_bytes()).expect("RAM"), 9, "a word is a word");
        assert_eq!(word(ram, gfn, 8), 5 << 32 | 1);
        assert!(exchange(10, 0, &[0; 4]).is_err(), "it is not aligned");
        assert!(exchange(8, 0, &[0; 3]).is_err(), "no processor has such words");
    });
}

#[test]
fn no_page_is_larger_than_was_chosen() {
    let largest = |pages| page(&ram(&[range(GIB, 2 * GIB)], pages), GIB).largest;
    assert_eq!(largest(PageSize::Small), Level::L1);
    assert_eq!(largest(PageSize::Huge2M), Level::L2);
    assert_eq!(largest(PageSize::Huge1G), Level::L3);
}

#[test]
fn neighbouring_regions_share_no_page_however_near() {
    let ram = ram(&[range(0, GIB + PAGE_SIZE), range(GIB + PAGE_SIZE, GIB)], PageSize::Huge1G);
    assert_eq!(page(&ram, GIB).largest, Level::L1, "the rest of its 2 MiB is in another mapping");
    assert_eq!(page(&ram, GIB + PAGE_SIZE).largest, Level::L1);
    assert_eq!(page(&ram, GIB + (2 << 20)).largest, Level::L2);
}

#[test]
fn whoever_keeps_the_memory_keeps_its_bytes() {
    for pages in [PageSize::Small, PageSize::Huge2M, PageSize::Huge1G] {
        let ram = ram(&[range(GIB, 4 << 20)], pages);
        let kept = ram.memory().clone();
        kept.write_obj(7u64, GuestAddress(GIB + 8)).expect("RAM");
        drop(ram);
        assert_eq!(kept.read_obj::<u64>(GuestAddress(GIB + 8)).expect("RAM"), 7, "{pages:?}");
        let mapping = kept.find_region(GuestAddress(GIB)).expect("RAM").get_mmap();
        drop(kept);
        assert_eq!(mapping.size(), 4 << 20);
        let last = vm_memory::VolatileMemory::get_ref::<u64>(&*mapping, 8).expect("inside");
        assert_eq!(last.load(), 7, "{pages:?}");
    }
}

/// Bytes of this process's address space.
fn mapped() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').next().expect("a number").parse().expect("a number");
    pages * PAGE_SIZE
}

#[test]
fn memory_that_nobody_keeps_is_unmapped_with_all_around_it() {
    let before = mapped();
    for _ in 0..64 {
        drop(ram(&[range(GIB, 1 << 40)], PageSize::Huge1G));
    }
    // Other tests map and unmap a few TiB meanwhile, so that there may be less than before.
    let grown = mapped().saturating_sub(before);
    assert!(grown < 32 << 40, "64 TiB were mapped, one after the other");
}

#[test]
fn a_range_that_no_host_can_map_is_refused() {
    let range = GfnRange::new(Gfn::new(0), (1 << 52) - 1).expect("in range");
    for pages in [PageSize::Small, PageSize::Huge2M, PageSize::Huge1G] {
        let error = Mapping::new(range, pages).expect_err("2^64 bytes");
        assert!(matches!(error, RamError::TooLarge(_) | RamError::Refused { .. }), "{error}");
    }
}
