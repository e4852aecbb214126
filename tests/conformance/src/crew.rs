//! Threads that follow a plan: what the backends whose guests are threads of this process share.

use crate::backend::{Plan, Random};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Stores between two looks at whether to pause.
const BATCH: u32 = 16;

/// Where a crew stores.
pub trait Ground: Send + Sync + 'static {
    /// What one of its threads stores through, made on that thread.
    type Hand<'s>
    where
        Self: 's;

    /// Makes one for the thread `index`.
    fn hand(&self, index: usize) -> Self::Hand<'_>;

    /// Stores `number` to the first eight bytes of `page`.
    fn store<'s>(&'s self, hand: &mut Self::Hand<'s>, page: u64, number: u64);
}

/// A thread for each of the plan's vCPUs, each paused between two stores and never inside of one.
pub struct Crew<G: Ground> {
    shared: Arc<Shared<G>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<G> {
    ground: G,
    plan: Plan,
    number: AtomicU64,
    members: Vec<Member>,
    phase: Mutex<Phase>,
    changed: Condvar,
    failed: AtomicBool,
}

#[derive(Default)]
struct Member {
    /// Held for a batch of stores.
    turn: Mutex<()>,
    /// It stores nothing older any more.
    number: AtomicU64,
    stores: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Paused,
    Running,
    Over,
}

impl<G: Ground> Crew<G> {
    /// Paused, with the number 1.
    ///
    /// # Panics
    /// No thread is to be had.
    pub fn new(ground: G, plan: Plan) -> Self {
        let members = (0..plan.vcpus).map(|_| Member::default()).collect();
        let shared = Arc::new(Shared {
            ground,
            plan,
            number: AtomicU64::new(1),
            members,
            phase: Mutex::new(Phase::Paused),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
        });
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.work(index))
        };
        let threads = (0..shared.members.len()).map(spawn).collect();
        Self { shared, threads }
    }

    /// Where it stores.
    #[must_use]
    pub fn ground(&self) -> &G {
        &self.shared.ground
    }

    /// See [`crate::backend::Guest`]; the same below.
    pub fn set_number(&self, number: u64) {
        self.shared.number.store(number, Ordering::Release);
    }

    /// Lets the threads store.
    pub fn resume(&self) {
        self.shared.turn_to(Phase::Running);
    }

    /// On return no thread is in a store.
    pub fn pause(&self) {
        self.shared.turn_to(Phase::Paused);
        self.shared.members.iter().for_each(|member| drop(member.turn.lock()));
    }

    /// The smallest number that a thread may still store.
    ///
    /// # Panics
    /// A thread has failed. The same below.
    #[must_use]
    pub fn oldest_number(&self) -> u64 {
        self.shared.check();
        let numbers = self.shared.members.iter();
        numbers.map(|member| member.number.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// How many stores each thread has made.
    #[must_use]
    pub fn stores(&self) -> Vec<u64> {
        self.shared.check();
        self.shared.members.iter().map(|member| member.stores.load(Ordering::Acquire)).collect()
    }
}

impl<G: Ground> Drop for Crew<G> {
    fn drop(&mut self) {
        self.shared.turn_to(Phase::Over);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl<G: Ground> Shared<G> {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn_to(&self, phase: Phase) {
        *self.phase() = phase;
        self.changed.notify_all();
    }

    /// Waits while paused.
    fn may_go_on(&self) -> bool {
        let guard = self.changed.wait_while(self.phase(), |phase| *phase == Phase::Paused);
        *guard.unwrap_or_else(PoisonError::into_inner) == Phase::Running
    }

    fn check(&self) {
        assert!(!self.failed.load(Ordering::Relaxed), "a writer failed");
    }

    fn work(&self, index: usize) {
        let _alarm = Alarm(&self.failed);
        let mut hand = self.ground.hand(index);
        let mut random = self.plan.seed_of(index);
        while self.may_go_on() {
            let turn = self.members[index].turn.lock();
            if *self.phase() == Phase::Running {
                (0..BATCH).for_each(|_| self.store_one(index, &mut hand, &mut random));
            }
            drop(turn);
        }
    }

    fn store_one<'s>(&'s self, index: usize, hand: &mut G::Hand<'s>, random: &mut Random) {
        let member = &self.members[index];
        let number = self.number.load(Ordering::Acquire);
        member.number.store(number, Ordering::Release);
        let entry = (random.step() >> 20) % Plan::TABLE as u64;
        let page = self.plan.table[usize::try_from(entry).expect("below TABLE")];
        self.ground.store(hand, page, number);
        member.stores.fetch_add(1, Ordering::Release);
    }
}

/// Says so if its thread panics.
struct Alarm<'s>(&'s AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
