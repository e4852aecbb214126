//! A guest of a few instructions that the processor executes itself, on one or more vCPUs.
//!
//! Each vCPU steps through a pseudo-random walk that the host can predict: it stores its state at the
//! beginning of a page. A number of stores is a round, which it ends by leaving the guest.
#![allow(dead_code, unused_imports, reason = "tests and example each need a part of it")]

mod machine;
mod program;
mod runner;
mod vcpu;

pub(crate) use machine::{DATA, Machine, Presence, SYSTEM, Unavailable};
pub(crate) use program::Walk;
pub(crate) use runner::{Runner, listen_for_kicks};
pub(crate) use vcpu::{Left, Vcpu};
