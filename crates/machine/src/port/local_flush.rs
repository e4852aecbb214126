//! What a fault has its own CPU forget.
//!
//! The library calls [`Embedder::flush_local`](vellum_mmu::Embedder::flush_local) on the thread of
//! the fault, which is the CPU's. The embedder does not know which port that is; the port does, and
//! looks here when the fault is over. A call from elsewhere reaches no port, as the instruction
//! reaches no other CPU.

use std::cell::Cell;
use vellum_pte::Gpa;

thread_local! {
    static FLUSHED: Cell<Option<Gpa>> = const { Cell::new(None) };
}

/// The embedder's half. A fault makes at most one call, so the last one is enough.
pub(crate) fn flush_local(gpa: Gpa) {
    FLUSHED.set(Some(gpa));
}

/// The port's half: runs a fault on this thread, and says what it flushed.
pub(super) fn flushed_by<T>(fault: impl FnOnce() -> T) -> (T, Option<Gpa>) {
    FLUSHED.set(None);
    let outcome = fault();
    (outcome, FLUSHED.take())
}
