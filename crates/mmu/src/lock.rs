//! A spin lock that asks the embedder for patience.
#![allow(unsafe_code)]

use crate::embedder::Embedder;
use crate::sync::{AtomicU32, MutPtr, Ordering, UnsafeCell};
use core::ops::{Deref, DerefMut};

const FREE: u32 = 0;
const HELD: u32 = 1;

/// How often to look before [`Embedder::relax`]: pure spinning cost milliseconds where the holder
/// was preempted, and a table's lock is held for less than this.
#[cfg(not(loom))]
const SPINS: u32 = 64;
#[cfg(loom)]
const SPINS: u32 = 0;

/// Data that one thread at a time may touch. `docs/locking.md` has the order of all locks.
#[derive(Debug)]
pub(crate) struct SpinLock<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands the value to one thread at a time.
unsafe impl<T: Send> Send for SpinLock<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// Proof that the lock is held.
pub(crate) struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
    value: MutPtr<T>,
}

impl<T> SpinLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    #[inline]
    pub(crate) fn lock<E: Embedder>(&self, embedder: &E) -> SpinGuard<'_, T> {
        while !self.try_take() {
            self.wait(embedder);
        }
        SpinGuard { lock: self, value: self.value.get_mut() }
    }

    fn try_take(&self) -> bool {
        // Acquire: pairs with the release of the guard before.
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn wait<E: Embedder>(&self, embedder: &E) {
        for _ in 0..SPINS {
            if self.state.load(Ordering::Relaxed) == FREE {
                return;
            }
            core::hint::spin_loop();
        }
        embedder.relax();
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held, so nobody else has the value.
        unsafe { self.value.deref() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, so nobody else has the value.
        unsafe { self.value.deref() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        // Release: pairs with the acquire of whoever takes it next.
        self.lock.state.store(FREE, Ordering::Release);
    }
}
