//! The software machine: RV64 vCPUs on a memory port that behaves as hardware does.
//!
//! | part | what |
//! |---|---|
//! | [`machine`] | a board and a thread for each hart: pause, resume, save, restore |
//! | [`board`] | RAM, second-stage tables, memory ports: a machine without vCPUs |
//! | [`port`] | one vCPU's memory: TLB, walks, faults, shoot-down |
//! | [`emulation`] | whose store is being emulated, for listeners |
//! | [`denial`] | what becomes of stores that maps of sub-pages forbid |
//! | [`walker`] | table walkers by the processors' manuals |
//! | `ram` | guest RAM: aligned for huge leaves, and pages that move |
//! | [`frames`] | table frames and their quarantine |
//! | [`log`] | the board's dirty log for consumers |
//! | [`vcpu`] | RV64IMA harts: a small predecoded interpreter |
//! | [`sbi`] | what a guest asks of the machine |
//! | [`elf`], [`guests`] | guest programs from files, and built in |
//! | [`bus`] | the seam between a vCPU and its memory port |
//!
//! # Sub-pages and tracked pages
//!
//! On EPT the processor has sub-page write permissions ([`SubPageHardware`](board::SubPageHardware),
//! by default): a port is given the library's table as a VM entry gives SPPTP, its walker asks that
//! table about data writes to a 4 KiB leaf with bit 61, and it keeps the vector with the translation,
//! and the entries that led there, until it is told or the address faults. A write there that crosses
//! into another sub-page needs both.
//!
//! Elsewhere, and for tracked pages everywhere, a store ends as
//! [`BusError::Emulate`](bus::BusError::Emulate), and a hart does the instruction in place of the
//! processor: through the library's `GuestWriter`, so that it is checked byte by byte, logged and
//! heard. A listener runs on the hart's thread and may ask
//! [`EmulatedStore::current`](emulation::EmulatedStore::current) whose instruction it is; it must not
//! wait for the machine to pause. A store that a map forbids ends as
//! [`BusError::Denied`](bus::BusError::Denied), and the machine stands at it
//! ([`Status::Denied`](machine::Status::Denied)) until it is resumed.

pub mod board;
pub mod bus;
pub mod denial;
pub mod elf;
pub mod embedder;
pub mod emulation;
pub mod error;
pub mod frames;
pub mod guests;
pub mod log;
mod logging;
pub mod machine;
mod page_log;
pub mod port;
mod ram;
mod rings;
mod rseq;
pub mod sbi;
pub mod vcpu;
pub mod walker;

pub use logging::Logging;
pub use ram::{PageSize, RAM_BASE};
