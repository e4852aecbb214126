//! A pointer that is set at most once while it is shared.
#![allow(unsafe_code)]

use crate::sync::{AtomicPtr, Ordering};
use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ptr;

/// An optional box. Anyone may read it and fill it; only `&mut` can empty it, so what
/// [`get`](Self::get) returned stays valid as long as the borrow (T2, by the borrow checker).
#[derive(Debug)]
pub(crate) struct OnceBox<T> {
    pointer: AtomicPtr<T>,
    owns: PhantomData<Box<T>>,
}

impl<T> Default for OnceBox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> OnceBox<T> {
    pub(crate) fn new() -> Self {
        Self { pointer: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        // Acquire: pairs with the release in `set`, so the pointee is seen whole.
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: null, or the box that `set` leaked; freed only under `&mut self`.
        unsafe { pointer.as_ref() }
    }

    /// Fills it; gives `value` back where another was faster.
    pub(crate) fn set(&self, value: Box<T>) -> Result<&T, Box<T>> {
        let raw = Box::into_raw(value);
        // Release: pairs with the acquire in `get`.
        let won = self.pointer.compare_exchange(
            ptr::null_mut(),
            raw,
            Ordering::Release,
            Ordering::Relaxed,
        );
        match won {
            // SAFETY: published by us just now; freed only under `&mut self`.
            Ok(_) => Ok(unsafe { &*raw }),
            // SAFETY: never published, so it is still ours alone.
            Err(_) => Err(unsafe { Box::from_raw(raw) }),
        }
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        let pointer = self.pointer.load(Ordering::Relaxed);
        // SAFETY: null or ours, and `&mut self` says that nobody else looks.
        unsafe { pointer.as_mut() }
    }

    pub(crate) fn take(&mut self) -> Option<Box<T>> {
        let pointer = self.pointer.load(Ordering::Relaxed);
        self.pointer.store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: it came from `Box::into_raw` in `set`, and is taken once.
        (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
    }
}

impl<T> Drop for OnceBox<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
