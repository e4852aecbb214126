use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

fn set(pages: u64) -> DirtySet {
    DirtySet::new(pages, Initial::Clean, Breaks::default()).expect("memory")
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

proptest! {
    #[test]
    fn clears_take_what_they_name_and_reads_take_nothing(
        pages in 1u64..20_000,
        full in any::<bool>(),
        steps in prop::collection::vec((0u64..20_000, 0u64..300, any::<u64>()), 1..60),
    ) {
        let initial = if full { Initial::AllSet } else { Initial::Clean };
        let set = DirtySet::new(pages, initial, Breaks::default()).expect("memory");
        let mut model: BTreeSet<u64> = if full { (0..pages).collect() } else { BTreeSet::new() };
        for (page, word, mask) in steps {
            if page < pages {
                set.prepare(page);
                set.mark(page);
                model.insert(page);
            }
            let named = |page: &u64| page / 64 == word && mask >> (page % 64) & 1 != 0;
            let expected = model.iter().filter(|page| named(page)).fold(0, |sum, page| sum | 1 << (page % 64));
            prop_assert_eq!(set.take_some(word, mask), expected);
            model.retain(|page| !named(page));
            let mut seen = Vec::new();
            set.read(|word, mask| seen.extend(bits(mask).map(|bit| (word * 64 + bit) as u64)));
            prop_assert_eq!(&seen, &model.iter().copied().collect::<Vec<_>>());
        }
        prop_assert_eq!(taken(&set), model.into_iter().collect::<Vec<_>>());
        prop_assert!(set.top.iter().all(|top| top.load(Ordering::Relaxed) == 0));
    }
}

#[test]
fn a_set_that_is_cleared_word_by_word_has_no_words_to_read() {
    let set = DirtySet::new(100_000, Initial::AllSet, Breaks::default()).expect("memory");
    for word in 0..set.words() as u64 {
        set.take_some(word, 0xff);
        set.take_some(word, u64::MAX);
    }
    assert!(set.summary.iter().all(|summary| summary.load(Ordering::Relaxed) == 0));
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
