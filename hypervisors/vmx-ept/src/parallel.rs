//! Two vCPUs on two CPUs.

use crate::operation;
use crate::processor::Vmx;
use ::checks::parallel::Parallel;

impl Parallel for Vmx {
    fn beside(there: impl FnOnce() + Send, here: impl FnOnce()) {
        let there = || {
            operation::enter();
            there();
            operation::leave();
        };
        runtime::x86_64::beside(there, here);
    }
}
