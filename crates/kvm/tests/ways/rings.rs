//! Full rings, and resets that signals interrupt.

use crate::native::{DATA, Left, Machine, Runner};
use crate::oracle::{Copy, named, protect, take};
use crate::{PAGES, RING, apart, each_ring, with};
use core::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use vellum_kvm::{RingSize, Way};
use vellum_memory::{DirtySource, PageSet};

/// Pages, fewer than the largest ring has entries.
const MANY: u64 = 30_000;

#[test]
fn a_vcpu_whose_ring_is_full_stays_out_until_it_is_reaped_and_nothing_is_lost() {
    each_ring(&apart(20_000)[..1], |mut machine| {
        let Machine { log, vcpus, memory, .. } = &mut machine;
        log.start().expect("the log starts");
        let mut copy = Copy::of(memory);
        let vcpu = &mut vcpus[0];
        assert_eq!(vcpu.enter(), Left::RingFull);
        assert_eq!(vcpu.enter(), Left::RingFull, "and again, at once");
        vcpu.reaper.as_ref().expect("a reaper").reap().expect("rings are emptied");
        assert_eq!(vcpu.enter(), Left::RingFull, "after as many pages again");
        let changed = copy.changed(DATA, memory);
        let mut round = PageSet::new(log.layout());
        take(log, &mut round).expect("a round");
        assert_eq!(named(&round, &changed), Ok(()));
        copy.deliver(&round, memory);
        vcpu.round();
        take(log, &mut round).expect("a round");
        copy.deliver(&round, memory);
        assert_eq!(copy.is_whole(memory), Ok(()));
    });
}

/// Ends the signals, also where the work panics.
struct Ends<'d>(&'d AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Signals the calling thread again and again while `work` is done, by a signal that does not queue.
fn under_signals(work: impl FnOnce()) {
    crate::native::listen_for_kicks();
    #[allow(unsafe_code)]
    // SAFETY: it has no arguments, and names this thread, which is there until the scope ends.
    let me = unsafe { libc::pthread_self() };
    let done = AtomicBool::new(false);
    scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Acquire) {
                #[allow(unsafe_code)]
                // SAFETY: the thread is there: it waits for this one at the end of the scope. The
                // signal has a handler, which does nothing.
                let sent = unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                assert_eq!(sent, 0);
            }
        });
        let _ends = Ends(&done);
        work();
    });
}

#[test]
fn a_reset_that_signals_interrupt_takes_everything_back() {
    // So many entries that a signal comes while they are taken back.
    let walk = [Machine::walk(1, 0, MANY, 2 * MANY)];
    let ring = RingSize::default();
    let Some(mut machine) = crate::machine(RING, ring, MANY, &walk) else { return };
    let Machine { log, vcpus, memory, .. } = &mut machine;
    log.start().expect("the log starts");
    let mut copy = Copy::of(memory);
    let mut round = PageSet::new(log.layout());
    for _ in 0..10 {
        vcpus[0].round();
        let changed = copy.changed(DATA, memory);
        round.clear();
        log.collect(&mut round).expect("a collection");
        under_signals(|| protect(log, &mut round).expect("a reset"));
        assert_eq!(named(&round, &changed), Ok(()));
        copy.deliver(&round, memory);
    }
    assert_eq!(copy.is_whole(memory), Ok(()));
}

#[test]
fn a_guest_that_never_leaves_by_itself_is_paused_by_a_kick() {
    let endless = [Machine::walk(1, 0, PAGES, u64::MAX)];
    with(Way::ClearingGet, &endless, |mut machine| {
        let runner = Runner::start(core::mem::take(&mut machine.vcpus));
        for _ in 0..50 {
            runner.let_each_leave();
            runner.pause();
            let copy = Copy::of(&machine.memory);
            assert_eq!(copy.is_whole(&machine.memory), Ok(()), "it stands");
            runner.resume();
        }
        machine.vcpus = runner.end();
    });
}
