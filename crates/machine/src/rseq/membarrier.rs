//! Linux's `membarrier`: a barrier, or a restart, on every CPU that runs this process.
//!
//! Where it is missing, `Registered::…` says so and nothing here is called.
#![allow(unsafe_code)]

use std::sync::LazyLock;

/// Whether every thread of this process can be made to restart its sequence (Linux 5.10).
pub(crate) static RESTARTS: LazyLock<bool> =
    LazyLock::new(|| command(REGISTER_PRIVATE_EXPEDITED_RSEQ));
/// Whether every thread of this process can be made to execute a barrier (Linux 4.14).
pub(crate) static BARRIERS: LazyLock<bool> = LazyLock::new(|| command(REGISTER_PRIVATE_EXPEDITED));

// linux/membarrier.h
const PRIVATE_EXPEDITED: libc::c_long = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_long = 1 << 4;
const PRIVATE_EXPEDITED_RSEQ: libc::c_long = 1 << 7;
const REGISTER_PRIVATE_EXPEDITED_RSEQ: libc::c_long = 1 << 8;

/// Restarts what every thread of this process has in progress, and is a full barrier between what
/// this thread did before and what each of them does after, and the other way round.
///
/// Only where [`RESTARTS`]. Once registered, the kernel has no reason to refuse.
pub(crate) fn restart_sequences() {
    let done = command(PRIVATE_EXPEDITED_RSEQ);
    assert!(done, "the kernel withdrew membarrier after it had registered it");
}

/// A full barrier on every thread of this process. Only where [`BARRIERS`].
pub(crate) fn barrier() {
    let done = command(PRIVATE_EXPEDITED);
    assert!(done, "the kernel withdrew membarrier after it had registered it");
}

#[cfg(target_os = "linux")]
fn command(command: libc::c_long) -> bool {
    const NO_FLAGS: libc::c_long = 0;
    const ANY_CPU: libc::c_long = 0;
    // SAFETY: membarrier takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, NO_FLAGS, ANY_CPU) };
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn command(_command: libc::c_long) -> bool {
    false
}
