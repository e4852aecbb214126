//! Dirty tracking by Linux's own KVM, as a [`DirtySource`](vellum_memory::DirtySource): for a monitor
//! that runs its guests on `/dev/kvm` and has no use for an MMU of ours.
//!
//! ```text
//! let kvm = vellum_kvm::open()?;                             says what to do where it fails
//! let vm = kvm.create_vm()?;
//! let way = Capabilities::of(&vm).best();                    or the one you want
//! let prepared = prepare(&vm, way, RingSize::default())?;    before the first vCPU
//! ... make memslots and vCPUs ...
//! let mut log = unsafe { prepared.log(slots)? };
//! log.add_vcpu(&vcpu)?;                                      each; rings are mapped
//! log.start()?;                                              from here on as every dirty source
//! ```
//!
//! With rings a vCPU that has filled its own leaves the guest with `KVM_EXIT_DIRTY_RING_FULL`, and
//! its thread calls [`Reaper::reap`] before it enters again. `docs/kvm.md` says what each [`Way`]
//! costs and promises, and `examples/rounds.rs` is a whole monitor.
#![cfg(target_os = "linux")]

mod breaks;
mod calls;
mod capabilities;
mod device;
mod error;
mod log;
mod prepare;
mod ring;
mod slot;

pub use breaks::Break;
pub use capabilities::{Capabilities, Capability, Missing, Way};
pub use device::{OpenError, open};
pub use error::{Call, KvmError, RingFault};
pub use log::KvmLog;
pub use prepare::{PrepareError, Prepared, RingSize, RingSizeError, prepare};
pub use ring::Reaper;
pub use slot::{Memslot, SlotAccess, SlotError};
