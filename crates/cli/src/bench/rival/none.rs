//! What others have, where there is neither Linux nor x86-64.

use super::Candidate;

/// Why there is nothing to compare with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing is written for this system.
    #[error("what is compared with runs on Linux on x86-64")]
    NotHere,
}

pub(in crate::bench) const OF_A_PROCESS: [Candidate; 0] = [];
pub(in crate::bench) const OF_A_GUEST: [Candidate; 0] = [];

pub(in crate::bench) mod kvm {
    use crate::bench::result::BenchResult;
    use crate::failure::Failure;
    use crate::quantity::Size;

    pub(in crate::bench) fn run(_: Size) -> Result<BenchResult, Failure> {
        Err(super::Error::NotHere.into())
    }
}
