//! Hearing of a write before it is made.

use crate::memory::{Kind, Memory};
use crate::{BASE, PAGES, each_kind, watch_of, watch_over};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use std::time::Duration;
use vellum_memory::{Gfn, GfnRange};
use vellum_process::{WatchError, WriteEvent, WriteWatch, Writers};

/// So long that only a hang lasts longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The next event, which comes.
pub(crate) fn event(watch: &WriteWatch) -> WriteEvent {
    watch.wait(Some(PATIENCE)).expect("it can be read").expect("it comes")
}

/// Lets everybody go on, also where the test fails.
pub(crate) struct Release<'a>(pub(crate) &'a WriteWatch);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.allow(0, self.0.layout().regions()[0].range).expect("allowed");
    }
}

fn pages(first: u64, pages: u64) -> GfnRange {
    GfnRange::new(Gfn::new(BASE + first), pages).expect("a range")
}

#[test]
fn a_writer_stands_before_its_first_write_to_a_page_until_it_is_allowed() {
    each_kind(|kind, memory| {
        let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
        memory.write(8, 1);
        // One that was there, and one that was not.
        for page in [8, 600] {
            watch.protect(0, pages(0, PAGES)).expect("protected");
            let before = memory.peek(page);
            std::thread::scope(|scope| {
                let _release = Release(&watch);
                let writer = scope.spawn(|| {
                    memory.write(page, 257);
                    memory.write(page, 258);
                    rustix::thread::gettid().as_raw_nonzero().get()
                });
                let event = event(&watch);
                assert_eq!((event.region, event.page), (0, pages(page, 1)), "{kind:?}");
                // `write` stores 257 as the 257th word.
                let at = Gfn::new(BASE + page).gpa().get() + 257 * 8;
                assert_eq!(event.gpa.get(), at, "{kind:?}");
                assert_eq!(memory.read(page)[257], 0, "{kind:?}: the write is not made");
                assert_eq!(memory.peek(page), before, "{kind:?}");
                watch.allow(event.region, event.page).expect("allowed");
                let thread = writer.join().expect("no panic");
                assert_eq!(i64::from(event.thread), i64::from(thread), "{kind:?}");
            });
            assert_eq!(memory.read(page)[257..259], [257, 258], "{kind:?}");
            assert_eq!(watch.next().expect("readable"), None, "{kind:?}: one event a page");
        }
    });
}

#[test]
fn a_page_that_is_protected_again_makes_another_event() {
    each_kind(|kind, memory| {
        let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
        for round in 1..=3 {
            watch.protect(0, pages(5, 1)).expect("protected");
            std::thread::scope(|scope| {
                let _release = Release(&watch);
                scope.spawn(|| memory.write(5, round));
                let event = event(&watch);
                watch.allow(event.region, event.page).expect("allowed");
            });
        }
        assert_eq!(memory.read(5)[1..4], [1, 2, 3], "{kind:?}");
    });
}

#[test]
fn a_private_page_that_is_given_back_is_no_longer_watched_and_a_shared_one_is() {
    use rustix::mm::Advice;
    for (kind, stands) in [(Kind::Private, None), (Kind::Shared, Some(pages(5, 1)))] {
        let memory = Memory::new(kind, PAGES).expect("memory");
        let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
        (0..PAGES).for_each(|page| memory.write(page, 1));
        watch.protect(0, pages(0, PAGES)).expect("protected");
        memory.advise(5, 1, Advice::LinuxDontNeed).expect("given back");
        std::thread::scope(|scope| {
            let _release = Release(&watch);
            scope.spawn(|| memory.write(5, 2));
            // It stands, or its write arrives.
            while stands.is_none() && memory.read(5)[2] != 2 {
                let event = watch.next().expect("readable");
                assert_eq!(event, None, "{kind:?}");
            }
            let event = stands.map(|_| event(&watch).page);
            assert_eq!(event, stands, "{kind:?}");
        });
    }
}

#[test]
fn reading_and_writing_elsewhere_are_not_held_up() {
    each_kind(|kind, memory| {
        let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
        watch.protect(0, pages(100, 50)).expect("protected");
        (0..PAGES).for_each(|page| assert_eq!(memory.peek(page), 0, "{kind:?}"));
        (0..100).chain(150..PAGES).for_each(|page| memory.write(page, 1));
        assert_eq!(watch.next().expect("readable"), None, "{kind:?}");
    });
}

#[test]
fn one_answer_serves_all_who_stand_before_a_page() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
    watch.protect(0, pages(0, PAGES)).expect("protected");
    std::thread::scope(|scope| {
        let _release = Release(&watch);
        for value in [10, 11, 12] {
            let memory = &memory;
            scope.spawn(move || memory.write(3, value));
        }
        let stand = [event(&watch), event(&watch), event(&watch)];
        assert!(stand.iter().all(|event| event.page == pages(3, 1)));
        watch.allow(0, pages(3, 1)).expect("allowed");
    });
    assert_eq!(memory.read(3)[10..13], [10, 11, 12]);
}

#[test]
fn its_descriptor_is_readable_when_there_is_an_event_and_not_before() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
    let ready = || poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&Default::default()));
    assert_eq!(ready(), Ok(0));
    watch.protect(0, pages(0, 1)).expect("protected");
    assert_eq!(ready(), Ok(0));
    std::thread::scope(|scope| {
        let _release = Release(&watch);
        scope.spawn(|| memory.write(0, 1));
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], None).expect("it becomes readable");
        assert_eq!(ready(), Ok(1));
        watch.allow(0, event(&watch).page).expect("allowed");
    });
}

#[test]
fn dropping_it_lets_everybody_go_on() {
    each_kind(|kind, memory| {
        let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
        watch.protect(0, pages(0, PAGES)).expect("protected");
        std::thread::scope(|scope| {
            let writers = [1, 600].map(|page| {
                let memory = &memory;
                scope.spawn(move || memory.write(page, 9))
            });
            // One has been read, the other may have been.
            event(&watch);
            drop(watch);
            writers.into_iter().for_each(|writer| writer.join().expect("it goes on"));
        });
        assert_eq!((memory.read(1)[9], memory.read(600)[9]), (9, 9), "{kind:?}");
        (0..PAGES).for_each(|page| memory.write(page, 1));
    });
}

#[test]
fn dropping_it_does_so_while_a_forked_process_has_the_descriptor_too() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
    watch.protect(0, pages(0, PAGES)).expect("protected");
    dropped_while_a_forked_process_has_it(&memory, watch);
}

/// It cannot be unregistered, and does so all the same.
#[test]
fn dropping_it_does_so_where_a_part_of_its_memory_was_mapped_over() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
    watch.protect(0, pages(0, PAGES)).expect("protected");
    memory.cover(PAGES - 1).expect("mapped over");
    dropped_while_a_forked_process_has_it(&memory, watch);
}

fn dropped_while_a_forked_process_has_it(memory: &Memory, watch: WriteWatch) {
    let child = crate::others::fork(|| {
        loop {
            std::thread::sleep(PATIENCE);
        }
    });
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| memory.write(1, 9));
        event(&watch);
        drop(watch);
        writer.join().expect("it goes on");
    });
    child.signal(Signal::KILL);
    assert_eq!(child.end().terminating_signal(), Some(Signal::KILL.as_raw()));
}

#[test]
fn a_forked_process_cannot_use_it_and_dropping_it_there_changes_nothing() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    let Some(watch) = watch_of(&memory, Writers::Threads) else { return };
    watch.protect(0, pages(0, PAGES)).expect("protected");
    let watch = std::mem::ManuallyDrop::new(watch);
    let child = crate::others::fork(|| {
        let refused = watch.allow(0, pages(0, PAGES));
        // SAFETY: in this process it is dropped once, and not used again.
        #[allow(unsafe_code)]
        drop(unsafe { std::ptr::read(&raw const *watch) });
        i32::from(!matches!(refused, Err(WatchError::Forked)))
    });
    child.ends_well();
    let watch = std::mem::ManuallyDrop::into_inner(watch);
    std::thread::scope(|scope| {
        let _release = Release(&watch);
        scope.spawn(|| memory.write(1, 9));
        watch.allow(0, event(&watch).page).expect("allowed");
    });
}

#[test]
fn a_process_whose_writer_stands_can_be_ended() {
    let memory = Memory::new(Kind::Private, PAGES).expect("memory");
    if watch_of(&memory, Writers::Threads).is_none() {
        return;
    }
    let (from, into) = rustix::pipe::pipe().expect("a pipe");
    let child = crate::others::fork(|| {
        let watch = watch_over(&memory, Writers::Threads);
        watch.protect(0, pages(0, PAGES)).expect("protected");
        rustix::io::write(&into, &[1]).expect("somebody reads");
        memory.write(1, 9);
        1
    });
    // Where the child ends too early, the pipe does.
    drop(into);
    assert_eq!(rustix::io::read(&from, &mut [0]), Ok(1), "it is about to write");
    child.signal(Signal::TERM);
    assert_eq!(child.end().terminating_signal(), Some(Signal::TERM.as_raw()));
}
