//! What a TLB keeps of sub-pages.

use super::super::partial::PartialTlb;
use crate::walker::{Dirty, Permissions, SetsDirty, SubPages, Translation};
use vellum_pte::{Gfn, Gpa, Pfn};

const GFN: Gfn = Gfn::new(5);
/// Another page with the same place.
const ALIAS: Gfn = Gfn::new(5 + 256);

fn permitting(sub_pages: u32) -> Translation {
    let (permits, sub_pages) = (Permissions::READ, SubPages::new(sub_pages));
    Translation {
        frame: Pfn::new(0x1000),
        permits,
        dirty: Dirty::Set,
        sets_dirty: SetsDirty::No,
        level: 1,
        sub_pages,
    }
}

fn at(gfn: Gfn, offset: u64) -> Gpa {
    Gpa::new(gfn.gpa().get() + offset)
}

#[test]
fn it_finds_only_the_page_and_the_sub_pages_it_was_given() {
    let mut tlb = PartialTlb::new();
    assert!(tlb.for_write(at(Gfn::new(0), 0), 1).is_none(), "an empty entry is no page's");
    tlb.insert(GFN, 1, permitting(0b1010));
    for (sub_page, found) in [(0, false), (1, true), (2, false), (3, true), (4, false)] {
        let last_byte = at(GFN, 128 * sub_page + 127);
        assert_eq!(tlb.for_write(last_byte, 1).is_some(), found, "sub-page {sub_page}");
        assert!(tlb.for_write(last_byte, 2).is_none(), "it needs both");
    }
    assert!(tlb.for_write(at(ALIAS, 128), 1).is_none(), "the same place, another page");
    tlb.insert(GFN, 2, permitting(0));
    assert!(tlb.for_write(at(GFN, 128), 1).is_some(), "an ordinary translation is none of these");
}

#[test]
fn it_forgets_the_page_it_is_told() {
    let mut tlb = PartialTlb::new();
    tlb.insert(GFN, 1, permitting(1));
    tlb.forget(ALIAS);
    assert!(tlb.for_write(at(GFN, 0), 8).is_some(), "another page's fault");
    tlb.forget(GFN);
    assert!(tlb.for_write(at(GFN, 0), 8).is_none());
    tlb.insert(GFN, 1, permitting(1));
    tlb.clear();
    assert!(tlb.for_write(at(GFN, 0), 8).is_none());
}
