//! Restartable sequences: accesses that the kernel restarts if their thread was preempted,
//! signalled or told to in the middle (Linux's rseq, x86-64).
//!
//! An access here is: look at the epoch, compare, commit. The commit is one instruction. Whoever
//! changes the epoch and then calls [`membarrier::restart_sequences`] knows on return that no
//! thread will commit an access that looked at the old epoch: one that was inside the sequence
//! begins anew, whether it was running or preempted. This is what an inter-processor interrupt
//! does to a real CPU's TLB.

pub(crate) mod membarrier;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "x86_64.rs"]
mod sequence;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "absent.rs"]
mod sequence;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod area;

pub(crate) use sequence::Sequence;
