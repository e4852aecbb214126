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
pub mod machine;
pub mod port;
mod ram;
mod rseq;
pub mod sbi;
pub mod vcpu;
pub mod walker;

pub use ram::{PageSize, RAM_BASE};
