//! Dirty tracking of memory of this process, as a [`DirtySource`](vellum_memory::DirtySource): for
//! vhost-user back ends, sandboxes without KVM, and checkpoints that write down only what changed.
//!
//! ```text
//! Capabilities::of_this_process().supports(Facility::Log)?;      or a line that says what is missing
//! let mapping = Mapping::new(SlotId(0), AddressSpace::NORMAL, range, memory)?;
//! let mut log = unsafe { ProcessLog::new(vec![mapping])? };      it stays mapped there
//! log.start()?;                                                  from here on as every dirty source
//! ```
//!
//! With the feature `vm-memory`, `ProcessLog::of_guest(memory, space)` is the same without `unsafe`.
//!
//! - [`ProcessLog`] says which pages were written since it was last asked. The kernel keeps the log:
//!   a write to a protected page is noted and goes on, nobody has to answer it, and no privilege is
//!   needed. Linux 6.7.
//! - [`WriteWatch`] tells of a write **before** it is made: the writer stands until
//!   [`allow`](WriteWatch::allow)ed.
//! - [`Capabilities`] says what this kernel gives this process, and what to do where it does not.
//!
//! Both see the writes that go through the mappings they were given, those of the kernel on this
//! process's behalf included, and no others. `docs/process.md` says what that leaves out, and
//! `examples/backend` moves a back end's memory to another process.
#![cfg(target_os = "linux")]

mod calls;
mod capabilities;
mod error;
#[cfg(feature = "vm-memory")]
mod guest;
mod log;
mod mapping;
mod watch;

pub use capabilities::{Capabilities, Facility, Missing};
pub use error::{Call, ProcessError};
#[cfg(feature = "vm-memory")]
pub use guest::GuestError;
pub use log::ProcessLog;
pub use mapping::{Aliased, Mapping, MappingError};
pub use watch::{WatchError, WriteEvent, WriteWatch, Writers};
