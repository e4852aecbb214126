use super::Whole;
use crate::Mapping;
use vellum_memory::{AddressSpace, Gfn, GfnRange, SlotId};

const HUGE: u64 = 2 << 20;

fn range(first: u64, pages: u64) -> GfnRange {
    GfnRange::new(Gfn::new(first), pages).expect("a range")
}

/// Four pages of 2 MiB, as the guest's memory from 5 on, which is no multiple of theirs.
fn huge() -> Whole {
    let host = core::ptr::without_provenance_mut(0x4000_0000);
    let mapping = Mapping::new(SlotId(0), AddressSpace::NORMAL, range(5, 2048), host);
    Whole { mapping: mapping.expect("whole pages"), page: HUGE }
}

#[test]
fn a_part_of_a_page_is_the_page() {
    let bytes = |first, pages| huge().bytes_of(range(first, pages));
    assert_eq!(bytes(5 + 700, 1), Some(0x4020_0000..0x4040_0000));
    assert_eq!(bytes(5 + 511, 2), Some(0x4000_0000..0x4040_0000), "of two");
    assert_eq!(bytes(5 + 512, 512), Some(0x4020_0000..0x4040_0000), "itself");
    assert_eq!(bytes(0, 6), Some(0x4000_0000..0x4020_0000), "what is not in it is left out");
    assert_eq!(bytes(5 + 2047, 9), Some(0x4060_0000..0x4080_0000));
    assert_eq!(bytes(0, 5), None);
}

#[test]
fn the_page_at_an_address_is_all_of_it_as_the_guest_knows_it() {
    assert_eq!(huge().page_at(0x4020_1234), Some(range(5 + 512, 512)));
    assert_eq!(huge().page_at(0x407f_ffff), Some(range(5 + 1536, 512)));
    let small = Whole { page: 4096, ..huge() };
    assert_eq!(small.page_at(0x4020_1234), Some(range(5 + 513, 1)));
}
