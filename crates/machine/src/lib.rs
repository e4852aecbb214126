//! The software machine: RV64 vCPUs on a memory port that behaves as hardware does.
//!
//! | part | what |
//! |---|---|
//! | [`bus`] | the seam between a vCPU and its memory port |

pub mod bus;
