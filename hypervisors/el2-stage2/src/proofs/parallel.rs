//! Two vCPUs on two CPUs.

use crate::cpu::El2;
use crate::stage2;
use checks::parallel::Parallel;

impl Parallel for El2 {
    fn beside(there: impl FnOnce() + Send, here: impl FnOnce()) {
        let there = || {
            stage2::walk_nowhere();
            there();
        };
        runtime::aarch64::beside(there, here);
    }
}
