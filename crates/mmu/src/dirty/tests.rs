use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

fn set(pages: u64) -> DirtySet {
    DirtySet::new(pages, Breaks::default()).expect("memory")
}

fn taken(set: &DirtySet) -> Vec<u64> {
    let mut pages = Vec::new();
    set.take(|word, mask| pages.extend(bits(mask).map(|bit| (word * 64 + bit) as u64)));
    pages
}

proptest! {
    #[test]
    fn a_take_is_what_was_marked_since_the_last(
        pages in 1u64..300_000,
        rounds in prop::collection::vec(prop::collection::vec(0u64..300_000, 0..100), 1..4),
    ) {
        let set = set(pages);
        for marks in rounds {
            let mut model = BTreeSet::new();
            for page in marks {
                set.prepare(page.min(pages - 1));
                set.mark(page);
                if page < pages { model.insert(page); }
            }
            prop_assert_eq!(taken(&set), model.into_iter().collect::<Vec<_>>());
            prop_assert!(taken(&set).is_empty());
        }
    }

    #[test]
    fn without_words_a_mark_means_the_64_pages_around_it(pages in 1u64..10_000, page in 0u64..10_000) {
        let set = set(pages);
        set.mark(page);
        let first = page / 64 * 64;
        let expected = if page < pages { first..pages.min(first + 64) } else { 0..0 };
        prop_assert_eq!(taken(&set), expected.collect::<Vec<_>>());
    }
}

#[test]
fn words_that_come_after_a_mark_do_not_hide_it() {
    let set = set(1000);
    set.mark(70);
    set.prepare(70);
    set.mark(71);
    assert_eq!(taken(&set), (64..128).collect::<Vec<_>>());
    set.mark(71);
    assert_eq!(taken(&set), [71]);
}

#[test]
fn a_slot_that_ends_clean_does_not_shift_what_follows() {
    let set = set(64 * 3);
    set.prepare(0);
    set.mark(64 * 2);
    assert_eq!(taken(&set), [128]);
}
