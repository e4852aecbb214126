//! Registrations: what they keep, and when they end.

use super::owned::{Recorder, SPACE, write_fault};
use super::{Inside, PAGE, WRITE, at, board, board_with, locked, write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use vellum_conformance::hypervisor::Hypervisor;
use vellum_mmu::*;
use vellum_pte::{Ept, Gfn};

#[test]
fn a_registration_that_shares_the_vm_keeps_it_alive() {
    let mmu = board();
    let alive = Arc::downgrade(&mmu);
    let registration = Mmu::listen(mmu, Arc::new(Recorder::default())).expect("memory");
    assert_eq!(
        write_fault(&alive.upgrade().expect("the registration holds it"), PAGE),
        Outcome::Mapped
    );
    registration.unregister();
    assert!(alive.upgrade().is_none(), "and nobody else");
}

/// That this compiles is half of the test: a borrow cannot outlive its VM.
#[test]
fn a_registration_that_borrows_the_vm_leaves_it_to_its_owner() {
    let mmu = board();
    let registration = Mmu::listen(&*mmu, Arc::new(Recorder::default())).expect("memory");
    assert_eq!(Arc::strong_count(&mmu), 1);
    drop(registration);
    assert!(Arc::try_unwrap(mmu).is_ok());
}

#[test]
fn a_listener_of_a_vm_that_goes_goes_with_it() {
    let mmu = board();
    let listener = Arc::new(Recorder::default());
    // As whoever forgets to unregister.
    std::mem::forget(Mmu::listen(&*mmu, listener.clone()).expect("memory"));
    drop(mmu);
    assert_eq!(Arc::strong_count(&listener), 1);
}

/// A listener whose call waits to be let go, and what it leaves when it is dropped.
struct Slow {
    entered: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
    finished: AtomicBool,
    dropped: Arc<Mutex<Vec<bool>>>,
}

impl WriteListener<Ept, Hypervisor> for Slow {
    fn write(&self, _: &Inside<'_>, _: &Written<'_>) {
        self.entered.send(()).expect("somebody waits");
        locked(&self.go_on).recv().expect("somebody lets it go on");
        self.finished.store(true, Ordering::Release);
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // As long as it takes for somebody else to notice.
        let_others_run();
        locked(&self.dropped).push(self.finished.load(Ordering::Acquire));
    }
}

/// Both ends of a [`Slow`] listener.
struct Reins {
    entered: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
    dropped: Arc<Mutex<Vec<bool>>>,
}

fn slow() -> (Arc<Slow>, Reins) {
    let (entering, entered) = mpsc::channel();
    let (go_on, waiting) = mpsc::channel();
    let dropped = Arc::<Mutex<Vec<bool>>>::default();
    let reins = Reins { entered, go_on, dropped: Arc::clone(&dropped) };
    let (go_on, finished) = (Mutex::new(waiting), AtomicBool::new(false));
    (Arc::new(Slow { entered: entering, go_on, finished, dropped }), reins)
}

/// Gives other threads every chance.
fn let_others_run() {
    (0..2000).for_each(|_| thread::yield_now());
}

#[test]
fn dropping_a_registration_waits_for_nobody_and_the_listener_outlives_its_last_call() {
    let mmu = board();
    let (listener, reins) = slow();
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(&mmu, at(PAGE, 0), &[1]));
        reins.entered.recv().expect("it is called");
        drop(registration);
        write(&mmu, at(PAGE, 1), &[1]);
        assert_eq!(*locked(&reins.dropped), [], "its call is under way");
        reins.go_on.send(()).expect("it waits");
        writer.join().expect("no panic");
    });
    assert_eq!(*locked(&reins.dropped), [true], "once, after its call");
}

/// Whether unregistering returns before a call that is under way has come to its end, and the library
/// has let go of the listener.
fn returns_early(config: Config, patience: impl Fn(&AtomicBool)) -> bool {
    let mmu = board_with(config);
    let (listener, reins) = slow();
    let registration = Mmu::listen(&*mmu, listener).expect("memory");
    let returned = AtomicBool::new(false);
    let Reins { entered, go_on, dropped } = reins;
    thread::scope(|scope| {
        scope.spawn(|| write(&mmu, at(PAGE, 0), &[1]));
        entered.recv().expect("it is called");
        let leaving = scope.spawn(|| {
            registration.unregister();
            let over = *locked(&dropped) == [true];
            returned.store(true, Ordering::Release);
            !over
        });
        patience(&returned);
        go_on.send(()).expect("it waits");
        leaving.join().expect("no panic")
    })
}

#[test]
fn unregistering_returns_when_the_last_call_is_over_and_the_listener_is_let_go() {
    assert!(!returns_early(Config::default(), |_| let_others_run()));
    // The control: a library that does not wait is found out.
    let broken = Config { broken: Some(Break::LeaveUnderCall), ..Config::default() };
    assert!(returns_early(broken, |returned| while !returned.load(Ordering::Acquire) {
        thread::yield_now();
    }));
}

#[test]
fn shadow_paging_leaves_room_for_those_who_listen() {
    let mmu = board();
    let registration = Mmu::listen(&*mmu, Arc::new(Recorder::default())).expect("memory");
    let page = Gfn::new(PAGE);
    for _ in 0..MAX_SHADOW_USERS {
        mmu.track(SPACE, page, WRITE).expect("there is room for each role");
    }
    let others = u16::MAX - MAX_SHADOW_USERS;
    assert!(others >= MAX_SHADOW_USERS, "for as many others at the least");
    for _ in 0..others {
        mmu.track(SPACE, page, WRITE).expect("and for the others");
    }
    assert_eq!(mmu.track(SPACE, page, WRITE), Err(TrackError::TooMany(page)));
    registration.unregister();
    assert_eq!(write_fault(&mmu, PAGE), Outcome::Emulate, "counts belong to no registration");
}

/// Whoever listens hears of each write that begins after it has come and ends before it goes, once,
/// and of none after it has gone, whatever others write and whoever else comes and goes.
#[test]
fn listeners_come_and_go_while_others_write() {
    const TURNS: u32 = 300;
    let mmu = board();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 1..3 {
            let (mmu, over) = (&mmu, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    write(mmu, at(PAGE + writer, 0), &writer.to_le_bytes());
                }
            });
        }
        let turns = |origin| {
            let mmu = &mmu;
            move || {
                let listener = Arc::new(Recorder::default());
                for turn in 0..TURNS {
                    let mine = at(160, u64::from(turn));
                    let registration = Mmu::listen(&**mmu, listener.clone()).expect("memory");
                    mmu.guest_writer(origin).write(SPACE, mine, &[1]).expect("RAM");
                    registration.unregister();
                    assert_eq!(Arc::strong_count(&listener), 1);
                    let heard = listener.heard();
                    let of_mine = heard.iter().filter(|heard| heard.origin == origin);
                    let of_mine: Vec<_> = of_mine.map(|heard| heard.gpa).collect();
                    assert_eq!(of_mine, [mine], "turn {turn}");
                    mmu.guest_writer(origin).write(SPACE, mine, &[2]).expect("RAM");
                    assert!(listener.heard().is_empty(), "it has gone");
                }
            }
        };
        let crowd = [100, 101].map(|number| scope.spawn(turns(Origin::Vcpu(number))));
        let ends = crowd.map(thread::ScopedJoinHandle::join);
        over.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.expect("no panic"));
    });
}
