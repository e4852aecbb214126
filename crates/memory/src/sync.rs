//! The one place that chooses between core's atomics and loom's, so that loom runs the shipped
//! functions.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// A full barrier, placed directly after an atomic read-modify-write: on x86 that is one already, and
/// only the compiler has to be held back (`docs/ordering.md`). The twin of `vellum-mmu`'s.
#[inline]
pub(crate) fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}
