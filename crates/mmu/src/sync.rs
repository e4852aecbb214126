//! The one place that chooses between core's atomics and loom's, so that loom runs the shipped
//! functions.

#[cfg(loom)]
pub(crate) use loom::{
    cell::{ConstPtr, MutPtr, UnsafeCell},
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(not(loom))]
pub(crate) use {
    cell::{ConstPtr, MutPtr, UnsafeCell},
    core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

/// A full barrier, placed directly after an atomic read-modify-write.
///
/// On x86 a locked instruction is one already (Intel SDM vol. 3A, 9.2.3.9: locked instructions are
/// totally ordered and nothing passes them), so only the compiler has to be held back. This is
/// what Linux calls `smp_mb__after_atomic`. `docs/ordering.md` lists the pairs.
#[inline]
pub(crate) fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}

/// Keeps what follows on cache lines of its own, two of them since x86 fetches lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

/// `core::cell::UnsafeCell` in loom's shape.
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod cell {
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    pub(crate) struct ConstPtr<T>(*const T);
    pub(crate) struct MutPtr<T>(*mut T);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(crate) fn get(&self) -> ConstPtr<T> {
            ConstPtr(self.0.get())
        }

        #[inline]
        pub(crate) fn get_mut(&self) -> MutPtr<T> {
            MutPtr(self.0.get())
        }
    }

    impl<T> ConstPtr<T> {
        /// # Safety
        /// Nobody writes the value while the reference lives.
        #[inline]
        pub(crate) unsafe fn deref(&self) -> &T {
            // SAFETY: the caller's promise; the pointer comes from a live cell.
            unsafe { &*self.0 }
        }
    }

    impl<T> MutPtr<T> {
        /// # Safety
        /// Nobody else reads or writes the value while the reference lives.
        #[inline]
        #[allow(clippy::mut_from_ref)]
        pub(crate) unsafe fn deref(&self) -> &mut T {
            // SAFETY: the caller's promise; the pointer comes from a live cell.
            unsafe { &mut *self.0 }
        }
    }
}
