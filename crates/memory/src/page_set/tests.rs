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
    fn an_overwritten_set_has_the_pages_of_the_bitmap_and_no_other(
        pages in 1u64..10_000,
        there in prop::collection::vec(0u64..10_000, 0..20),
        bitmap in prop::collection::vec(prop_oneof![9 => Just(0), 1 => any::<u64>()], 157),
        removed in 0u64..10_000,
    ) {
        let mut by_word = PageSet::new(&layout(pages));
        let mut at_once = by_word.clone();
        there.iter().for_each(|page| at_once.regions_mut()[0].insert(*page));
        (0..).zip(&bitmap).for_each(|(at, word)| by_word.regions_mut()[0].insert_word(at, *word));
        at_once.regions_mut()[0].overwrite(|words| {
            words.copy_from_slice(&bitmap[..words.len()]);
            Ok::<_, ()>(())
        }).expect("nothing fails");
        prop_assert_eq!(&by_word, &at_once);
        let (one, other) = (&by_word.regions()[0], &at_once.regions()[0]);
        prop_assert!(one.words().eq(other.words()));
        prop_assert_eq!(one.count(), other.count());
        prop_assert_eq!(one.count(), one.pages().count() as u64);
        for set in [&mut by_word, &mut at_once] {
            set.regions_mut()[0].remove(removed);
        }
        prop_assert_eq!(&by_word, &at_once);
        at_once.clear();
        prop_assert_eq!(at_once, PageSet::new(&layout(pages)));
    }
}

/// What a round goes through.
#[derive(Clone, Debug)]
enum Change {
    Insert(u64),
    InsertWord(u64, u64),
    InsertBitmap(Vec<u64>),
    Overwrite(Vec<u64>),
    Fail,
    Remove(u64),
    Clear,
    Look(u64, u64),
}

fn change() -> impl Strategy<Value = Change> {
    let bitmap = || prop::collection::vec(prop_oneof![5 => Just(0), 1 => any::<u64>()], 157);
    prop_oneof![
        3 => (0u64..10_000).prop_map(Change::Insert),
        2 => (0u64..160, any::<u64>()).prop_map(|(word, mask)| Change::InsertWord(word, mask)),
        1 => bitmap().prop_map(Change::InsertBitmap),
        2 => bitmap().prop_map(Change::Overwrite),
        1 => Just(Change::Fail),
        3 => (0u64..10_000).prop_map(Change::Remove),
        2 => Just(Change::Clear),
        3 => (0u64..170, 0u64..170).prop_map(|(first, end)| Change::Look(first, end)),
    ]
}

/// The pages of a bitmap that begins with word `first`.
fn pages_of(first: u64, bitmap: &[u64]) -> BTreeSet<u64> {
    let bits = |(word, mask): (u64, &u64)| {
        let mask = *mask;
        (0..64).filter(move |bit| mask >> bit & 1 != 0).map(move |bit| word * 64 + bit)
    };
    (first..).zip(bitmap).flat_map(bits).collect()
}

impl Change {
    /// Makes it, in the set and in the model, and looks where it does only that.
    fn make(&self, pages: u64, set: &mut RegionSet, model: &mut BTreeSet<u64>) {
        let there = |named: BTreeSet<u64>| named.into_iter().filter(move |page| *page < pages);
        match self {
            Self::Insert(page) => {
                set.insert(*page);
                model.extend(there([*page].into()));
            }
            Self::InsertWord(word, mask) => {
                set.insert_word(*word, *mask);
                model.extend(there(pages_of(*word, &[*mask])));
            }
            Self::InsertBitmap(bitmap) => {
                set.insert_bitmap(bitmap);
                model.extend(there(pages_of(0, bitmap)));
            }
            Self::Overwrite(bitmap) => {
                let write = |words: &mut [u64]| {
                    words.copy_from_slice(&bitmap[..words.len()]);
                    Ok::<_, ()>(())
                };
                set.overwrite(write).expect("nothing fails");
                *model = there(pages_of(0, bitmap)).collect();
            }
            Self::Fail => {
                let write = |words: &mut [u64]| {
                    words.fill(7);
                    Err("half-way")
                };
                assert_eq!(set.overwrite(write), Err("half-way"));
                model.clear();
            }
            Self::Remove(page) => {
                set.remove(*page);
                model.remove(page);
            }
            Self::Clear => {
                set.clear();
                model.clear();
            }
            Self::Look(first, end) => {
                let (at, bitmap) = set.bitmap(*first..*end);
                let looked_at = first * 64..(end * 64).max(first * 64);
                let here: BTreeSet<u64> = model.range(looked_at).copied().collect();
                assert!(bitmap.first().is_none_or(|word| *word != 0));
                assert!(bitmap.last().is_none_or(|word| *word != 0));
                assert_eq!(pages_of(at, bitmap), here);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_set_goes_through_it_has_the_pages_that_a_tree_has(
        pages in 1u64..10_000,
        changes in prop::collection::vec(change(), 0..30),
    ) {
        let mut set = PageSet::new(&layout(pages)).regions()[0].clone();
        let mut model = BTreeSet::new();
        for change in &changes {
            change.make(pages, &mut set, &mut model);
            prop_assert_eq!(set.pages().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(set.count(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert!((0..pages + 70).all(|page| set.contains(page) == model.contains(&page)));
            let mut other = PageSet::new(&layout(pages)).regions()[0].clone();
            model.iter().for_each(|page| other.insert(*page));
            prop_assert_eq!(&set, &other);
        }
    }
}

#[test]
fn a_set_whose_overwriting_fails_half_way_is_empty() {
    let mut set = PageSet::full(&layout(10_000));
    let failed = set.regions_mut()[0].overwrite(|words| {
        words[..70].fill(7);
        Err("half-way")
    });
    assert_eq!(failed, Err("half-way"));
    assert!(set.is_empty());
    assert_eq!(set, PageSet::new(&layout(10_000)));
}

#[test]
fn a_bitmap_that_goes_on_past_the_end_makes_no_pages_there() {
    for pages in [1, 63, 64, 65, 4095, 4096, 4097] {
        let mut set = PageSet::new(&layout(pages));
        let all = |words: &mut [u64]| {
            words.fill(u64::MAX);
            Ok::<_, ()>(())
        };
        set.regions_mut()[0].overwrite(all).expect("nothing fails");
        assert_eq!(set.count(), pages);
        assert_eq!(set, PageSet::full(&layout(pages)));
    }
}

#[test]
fn sets_of_the_same_pages_are_equal_however_the_pages_came_there() {
    let empty = PageSet::new(&layout(300));
    let mut other = empty.clone();
    other.regions_mut()[0].insert(200);
    assert_ne!(empty, other);
    other.regions_mut()[0].remove(200);
    assert_eq!(empty, other);
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
