//! Two vCPUs on two CPUs.

use crate::operation;
use crate::processor::Svm;
use checks::parallel::Parallel;

impl Parallel for Svm {
    fn beside(there: impl FnOnce() + Send, here: impl FnOnce()) {
        let there = || {
            operation::enter();
            there();
        };
        runtime::x86_64::beside(there, here);
    }
}
