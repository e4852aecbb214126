use super::{Aliased, Mapping, MappingError};
use vellum_memory::{AddressSpace, Gfn, GfnRange, PAGE_SIZE, SlotId};

fn mapping(host: usize, pages: u64) -> Result<Mapping, MappingError> {
    let range = GfnRange::new(Gfn::new(100), pages).expect("a range");
    let host = core::ptr::without_provenance_mut(host);
    Mapping::new(SlotId(0), AddressSpace::NORMAL, range, host)
}

/// A page of this host's.
fn page() -> u64 {
    rustix::param::page_size() as u64
}

#[test]
fn memory_that_is_not_whole_pages_is_refused() {
    let error = mapping(0x1000_0800, 16 * page() / PAGE_SIZE).expect_err("in the middle of a page");
    assert!(matches!(error, MappingError::Unaligned { host: 0x1000_0800, .. }));
}

#[test]
fn memory_past_the_last_address_is_refused() {
    for pages in [1 << 20, u64::MAX / PAGE_SIZE, u64::MAX / 2] {
        let error = mapping(usize::MAX - 0xf_ffff, pages).expect_err("it wraps");
        assert!(matches!(error, MappingError::PastTheEnd { .. }), "{error}");
    }
}

#[test]
fn a_part_of_the_guest_is_a_part_of_the_bytes() {
    let mapping = mapping(0x1000_0000, 64).expect("whole pages");
    let part =
        |first, pages| mapping.bytes_of(GfnRange::new(Gfn::new(first), pages).expect("a range"));
    assert_eq!(part(100, 64), Some(mapping.bytes()));
    assert_eq!(part(101, 2), Some(0x1000_1000..0x1000_3000));
    assert_eq!(part(0, 102), Some(0x1000_0000..0x1000_2000), "what is not in it is left out");
    assert_eq!(part(163, 100), Some(0x1003_f000..0x1004_0000));
    assert_eq!(part(0, 100), None);
    assert_eq!(part(164, 1), None);
}

#[test]
fn the_pages_of_bytes_are_those_that_have_some_of_them() {
    let mapping = mapping(0x1000_0000, 64).expect("whole pages");
    assert_eq!(mapping.pages_of(&(0x1000_1000..0x1000_3000)), 1..3);
    assert_eq!(mapping.pages_of(&(0x1000_1001..0x1000_3001)), 1..4);
    assert_eq!(mapping.pages_of(&(0..u64::MAX)), 0..64, "none outside of it");
}

#[test]
fn the_same_addresses_in_two_regions_are_refused() {
    let [low, high, across] =
        [0x1000_0000, 0x1004_0000, 0x1003_0000].map(|host| mapping(host, 64).expect("whole pages"));
    assert_eq!(Aliased::none_of(&[low, high]), Ok(()), "neighbours");
    assert_eq!(Aliased::none_of(&[high, low]), Ok(()));
    assert_eq!(Aliased::none_of(&[low, low]), Err(Aliased { first: 0, second: 1 }));
    assert_eq!(Aliased::none_of(&[low, high, across]), Err(Aliased { first: 0, second: 2 }));
    assert_eq!(Aliased::none_of(&[across, high]), Err(Aliased { first: 0, second: 1 }));
    let inside = mapping(0x1001_0000, 16).expect("whole pages");
    assert_eq!(Aliased::none_of(&[high, inside, low]), Err(Aliased { first: 1, second: 2 }));
}
