use crate::*;
use alloc::collections::BTreeSet;
use alloc::vec;
use proptest::prelude::*;

fn layout(pages: u64) -> Layout {
    let range = GfnRange::new(Gfn::new(0x80000), pages).expect("in range");
    Layout::new(vec![Region { slot: SlotId(0), space: AddressSpace::NORMAL, range }])
        .expect("one region")
}

proptest! {
    #[test]
    fn a_page_set_agrees_with_a_tree_set(
        pages in 1u64..10_000,
        ops in prop::collection::vec((0u64..10_000, any::<bool>()), 0..200),
    ) {
        let mut set = PageSet::new(&layout(pages));
        let mut model = BTreeSet::new();
        for (page, add) in ops {
            if add {
                set.regions_mut()[0].insert(page);
                if page < pages { model.insert(page); }
            } else {
                set.regions_mut()[0].remove(page);
                model.remove(&page);
            }
        }
        let region = &set.regions()[0];
        prop_assert_eq!(region.pages().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(set.count(), model.len() as u64);
        prop_assert_eq!(set.is_empty(), model.is_empty());
        set.clear();
        prop_assert!(set.is_empty());
    }
}

proptest! {
    #[test]
    fn a_bitmap_is_inserted_as_its_words_are(
        pages in 1u64..10_000,
        there in prop::collection::vec(0u64..10_000, 0..20),
        bitmap in prop::collection::vec(prop_oneof![9 => Just(0), 1 => any::<u64>()], 0..170),
    ) {
        let mut by_word = PageSet::new(&layout(pages));
        there.iter().for_each(|page| by_word.regions_mut()[0].insert(*page));
        let mut at_once = by_word.clone();
        (0..).zip(&bitmap).for_each(|(at, word)| by_word.regions_mut()[0].insert_word(at, *word));
        at_once.regions_mut()[0].insert_bitmap(&bitmap);
        prop_assert_eq!(by_word, at_once);
    }
}

proptest! {
    #[test]
    fn a_range_is_inserted_as_its_pages_are(
        pages in 1u64..1000,
        first in 0u64..1200,
        length in prop_oneof![0u64..1200, Just(u64::MAX - 1200)],
    ) {
        let (mut one_by_one, mut at_once) = (PageSet::new(&layout(pages)), PageSet::new(&layout(pages)));
        let range = first..first + length;
        (0..pages).filter(|page| range.contains(page))
            .for_each(|page| one_by_one.regions_mut()[0].insert(page));
        at_once.regions_mut()[0].insert_range(range);
        prop_assert_eq!(one_by_one, at_once);
    }
}

#[test]
fn a_full_set_ends_with_the_region() {
    let set = PageSet::full(&layout(67));
    assert_eq!(set.count(), 67);
    assert!(set.regions()[0].contains(66));
    assert!(!set.regions()[0].contains(67));
}

#[test]
fn regions_that_share_a_page_are_refused() {
    let range = |first, pages| GfnRange::new(Gfn::new(first), pages).expect("in range");
    let region = |slot, range| Region { slot: SlotId(slot), space: AddressSpace::NORMAL, range };
    let clash = vec![region(0, range(0, 10)), region(1, range(9, 1))];
    assert_eq!(Layout::new(clash), Err(LayoutError::Overlap { first: 0, second: 1 }));
    assert_eq!(Layout::new(vec![region(0, range(0, 0))]), Err(LayoutError::Empty(0)));
    assert!(Layout::new(vec![region(0, range(0, 10)), region(1, range(10, 1))]).is_ok());
}

#[test]
fn what_lies_past_the_end_is_ignored_however_far() {
    let mut set = PageSet::new(&layout(100));
    for word in [2, 1 << 58, u64::MAX] {
        set.regions_mut()[0].insert_word(word, u64::MAX);
        set.regions_mut()[0].insert(word.saturating_mul(64));
    }
    assert!(set.is_empty());
}

#[test]
fn more_pages_than_a_number_holds_are_counted_as_the_most() {
    let range = GfnRange::new(Gfn::new(0), u64::MAX).expect("it ends at the last number");
    let region = |space| Region { slot: SlotId(space), space: AddressSpace(space), range };
    let layout = Layout::new(vec![region(0), region(1)]).expect("two address spaces");
    assert_eq!(layout.pages(), u64::MAX);
}

#[test]
fn a_set_made_fallibly_is_the_same() {
    let made = layout(67);
    let set = RegionSet::try_new(made.regions()[0]).expect("memory");
    assert_eq!(set, PageSet::new(&made).regions()[0]);
    let range = GfnRange::new(Gfn::new(0), 1 << 60).expect("in range");
    let endless = Region { range, ..made.regions()[0] };
    assert!(RegionSet::try_new(endless).is_err());
}
