//! A small monitor of native x86-64 guests on Linux's KVM: memory, vCPUs on threads, a log of the
//! guest's writes, and a state that moves to another machine.
//!
//! ```
//! use vellum_memory::{DirtySource, PageSet};
//! use vellum_vmm::{Config, Guest, Machine, MachineError, MachineState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::new(16 << 20, 2);
//! let (machine, mut log) = match Machine::new(&config, &Guest::Selfcheck.program()) {
//!     Err(MachineError::Open(reason)) => {
//!         // It says what to do.
//!         eprintln!("not run: {reason}");
//!         return Ok(());
//!     }
//!     made => made?,
//! };
//! log.start()?;
//! machine.resume();
//! // Rounds, while the guest runs. And the last one:
//! machine.pause();
//! let mut round = PageSet::new(machine.layout());
//! log.collect(&mut round)?;
//!
//! let bytes = machine.save()?.to_bytes();
//! let (elsewhere, _) = Machine::vacant(&config)?;
//! // Its memory is copied; and then:
//! elsewhere.restore(&MachineState::from_bytes(&bytes)?)?;
//! # Ok(())
//! # }
//! ```
//!
//! Guests run at level 3 of long mode, where every host runs them natively, also one that has neither
//! VMX nor SVM. `docs/vmm.md` has the machine as a guest sees it.
//!
//! On anything but Linux on x86-64 this crate is empty.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

// The gate of these tests names the crate as tests from outside do.
#[cfg(test)]
extern crate self as vellum_vmm;

mod boot;
mod calls;
mod config;
mod console;
mod descriptors;
mod error;
mod gate;
mod guests;
mod kick;
mod log;
mod machine;
mod port;
mod program;
mod ram;
mod state;
mod statistics;
mod status;
#[cfg(test)]
mod tests;
mod vcpu;

pub use config::{Backing, Config, MINIMUM_MEMORY, MOST_MEMORY, MOST_VCPUS};
pub use console::ConsoleSink;
pub use descriptors::Descriptor;
pub use error::{MachineError, MemoryError};
pub use guests::{Guest, HOT_PER_COLD, Plan, UnknownGuest, passes_to_recheck_all};
pub use log::GuestLog;
pub use machine::Machine;
pub use port::Port;
pub use program::{Program, ProgramError};
pub use ram::{RAM, RAM_BASE, RESERVED_PAGES, SYSTEM};
pub use state::{CpuidWord, MachineState, Part, Register, RestoreError, SaveError, StateError};
pub use statistics::{Statistics, StatisticsError};
pub use status::{End, Failure, Status, Why};
