//! A guest of a few instructions that runs natively at level 3 of long mode, on one or more vCPUs.
//!
//! Level 3, since a host without VMX or SVM interprets level 0, and an interpreted store touches no
//! table entry. Each vCPU steps through a pseudo-random walk that the host can predict: it stores its
//! state at the beginning of a page. A number of stores is a round, which it ends by an `out`.
#![allow(dead_code, unused_imports, reason = "tests and example each need a part of it")]

mod machine;
mod program;
mod runner;
mod vcpu;

pub(crate) use machine::{DATA, Machine, Presence, SYSTEM, Unavailable};
pub(crate) use program::Walk;
pub(crate) use runner::{Runner, listen_for_kicks};
pub(crate) use vcpu::{Left, Vcpu};
