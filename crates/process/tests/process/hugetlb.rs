//! Memory of the pool of huge pages: a write is logged, and watched, as all of its huge page.

use crate::memory::{HUGE, Kind, Memory, PAGE};
use crate::oracle::{Copy, next};
use crate::watching::{Release, event};
use crate::{BASE, log_of, watch_of};
use rustix::mm::Advice;
use std::collections::BTreeSet;
use vellum_memory::{DirtySource, Gfn, GfnRange};
use vellum_presence::{Need, given};
use vellum_process::Writers;

/// Of a huge page, in small ones.
const HUGE_PAGES: u64 = (HUGE / PAGE) as u64;

/// Does `test` with memory of two huge pages of each kind, if the pool has them.
fn each_pool(mut test: impl FnMut(Kind, Memory)) {
    for kind in [Kind::HugeTlb, Kind::SharedHugeTlb] {
        let memory = Memory::new(kind, 2 * HUGE_PAGES).map_err(|error| {
            format!("no memory of 2 MiB pages (sysctl vm.nr_hugepages=8 makes some): {error}")
        });
        let Some(memory) = given(Need::HugePages(2 * HUGE as u64), memory) else { return };
        test(kind, memory);
    }
}

fn page(number: u64) -> BTreeSet<u64> {
    (number * HUGE_PAGES..(number + 1) * HUGE_PAGES).collect()
}

#[test]
fn a_write_names_the_huge_page() {
    each_pool(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        memory.write(0, 1);
        log.start().expect("the log starts");
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
        memory.write(700, 1);
        assert_eq!(next(&mut log), page(1), "{kind:?}: it was never there");
        memory.write(3, 1);
        assert_eq!(next(&mut log), page(0), "{kind:?}");
        memory.read(3);
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
    });
}

#[test]
fn a_huge_page_that_is_given_back_is_seen_where_it_was_written_since_and_no_other() {
    each_pool(|kind, memory| {
        let Some(mut log) = log_of(&memory) else { return };
        (0..2 * HUGE_PAGES).for_each(|page| memory.write(page, page + 1));
        log.start().expect("the log starts");
        let copy = Copy::of(&memory);
        memory.write(0, 9);
        match kind {
            Kind::HugeTlb => memory.advise(0, 2 * HUGE_PAGES, Advice::LinuxDontNeed),
            _ => memory.punch(0, 2 * HUGE_PAGES),
        }
        .expect("given back");
        let named = next(&mut log);
        assert_eq!(copy.changed(&memory).len() as u64, 2 * HUGE_PAGES, "{kind:?}");
        // docs/process.md: who gives such memory back marks it in a log of their own.
        assert_eq!(named, page(0), "{kind:?}");
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}: it is named once");
        memory.write(1, 7);
        memory.write(HUGE_PAGES, 7);
        assert_eq!(next(&mut log).len() as u64, 2 * HUGE_PAGES, "{kind:?}: it is logged as before");
    });
}

#[test]
fn a_writer_to_a_huge_page_stands_and_is_allowed_all_of_it() {
    let range = |first, pages| GfnRange::new(Gfn::new(BASE + first), pages).expect("a range");
    each_pool(|kind, memory| {
        let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
        memory.write(0, 1);
        // Of one that is there, and of one that is not, a small page is named.
        for (small, huge) in [(3, 0), (HUGE_PAGES + 70, HUGE_PAGES)] {
            watch.protect(0, range(small, 1)).expect("protected");
            std::thread::scope(|scope| {
                let _release = Release(&watch);
                scope.spawn(|| memory.write(small + 5, 257));
                let event = event(&watch);
                assert_eq!(event.page, range(huge, HUGE_PAGES), "{kind:?}");
                let at = Gfn::new(BASE + small + 5).gpa().get() + 257 * 8;
                assert_eq!(event.gpa.get(), at, "{kind:?}");
                watch.allow(event.region, event.page).expect("allowed");
            });
            memory.write(small, 2);
            assert_eq!(watch.next().expect("readable"), None, "{kind:?}: it is allowed whole");
        }
    });
}
