//! vCPUs on threads of their own, which can be paused anywhere.

use super::vcpu::{Left, Vcpu};
use core::ffi::{c_int, c_void};
use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{JoinHandle, spawn};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// What the threads are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    /// Run the guest.
    Run,
    /// Stand outside of it.
    Pause,
    /// Give the vCPU back.
    End,
}

struct State {
    wanted: Wanted,
    /// How many stand outside.
    paused: usize,
    /// How often each has left the guest.
    exits: Vec<u64>,
}

#[derive(Clone)]
struct Shared(Arc<(Mutex<State>, Condvar)>);

/// The threads of a guest's vCPUs.
pub(crate) struct Runner {
    shared: Shared,
    threads: Vec<JoinHandle<Vcpu>>,
}

impl Runner {
    /// Runs `vcpus` until they are paused.
    pub(crate) fn start(vcpus: Vec<Vcpu>) -> Self {
        listen_for_kicks();
        let state = State { wanted: Wanted::Run, paused: 0, exits: vec![0; vcpus.len()] };
        let shared = Shared(Arc::new((Mutex::new(state), Condvar::new())));
        let thread = |(index, vcpu)| {
            let shared = shared.clone();
            spawn(move || shared.run(index, vcpu))
        };
        let threads = vcpus.into_iter().enumerate().map(thread).collect();
        Self { shared, threads }
    }

    /// Returns when every vCPU stands outside of the guest.
    pub(crate) fn pause(&self) {
        self.shared.set(Wanted::Pause);
        self.kick_until(|state| state.paused == self.threads.len());
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.shared.set(Wanted::Run);
    }

    /// Returns when every vCPU has left the guest once since.
    pub(crate) fn let_each_leave(&self) {
        let before = self.shared.lock().exits.clone();
        self.kick_until(|state| state.exits.iter().zip(&before).all(|(now, then)| now > then));
    }

    /// Ends the threads, and gives the vCPUs back.
    pub(crate) fn end(mut self) -> Vec<Vcpu> {
        self.pause();
        self.shared.set(Wanted::End);
        let threads = core::mem::take(&mut self.threads);
        threads.into_iter().map(|thread| thread.join().expect("a vCPU's thread ends")).collect()
    }

    /// A signal that comes just before the guest is entered is lost on it. So kicks are repeated until
    /// they are answered; how long a wait between takes decides nothing.
    fn kick_until(&self, answered: impl Fn(&State) -> bool) {
        let mut state = self.shared.lock();
        while !answered(&state) {
            for thread in &self.threads {
                assert!(!thread.is_finished(), "a vCPU's thread has ended early");
                thread.kill(SIGRTMIN()).expect("a thread is there to be kicked");
            }
            let wait = self.shared.0.1.wait_timeout(state, Duration::from_millis(1));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, wanted: Wanted) {
        self.lock().wanted = wanted;
        self.0.1.notify_all();
    }

    fn run(&self, index: usize, mut vcpu: Vcpu) -> Vcpu {
        while self.may_run(index) {
            while vcpu.go() == Left::RingFull {}
        }
        vcpu
    }

    /// Counts an exit, and waits while the guest is paused. Says whether to go on.
    fn may_run(&self, index: usize) -> bool {
        let mut state = self.lock();
        state.exits[index] += 1;
        if state.wanted == Wanted::Pause {
            state.paused += 1;
            self.0.1.notify_all();
            while state.wanted == Wanted::Pause {
                state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.paused -= 1;
        }
        state.wanted == Wanted::Run
    }
}

/// A handler that does nothing: what is wanted is that the call returns.
pub(crate) fn listen_for_kicks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [SIGRTMIN(), libc::SIGUSR1] {
            register_signal_handler(signal, kicked).expect("a signal has a handler");
        }
    });
}

extern "C" fn kicked(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
