use super::*;
use crate::SaveError;
use std::io;

fn failure(why: Why) -> Failure {
    Failure { vcpu: 3, at: Some(0x1000), why }
}

/// What an error and all its causes say, the outermost first.
fn chain(error: &dyn Error) -> Vec<String> {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect()
}

#[test]
fn a_ring_that_could_not_be_emptied_is_told_down_to_what_the_kernel_said() {
    let call = vellum_kvm::Call::ResetDirtyRings;
    let source = io::Error::from_raw_os_error(libc::ENOMEM);
    let said = source.to_string();
    let failure = failure(Why::Ring(KvmError::Vm { call, source }));
    let expected = [
        "vCPU 3 at 0x1000: its dirty ring is full and could not be emptied",
        "KVM_RESET_DIRTY_RINGS failed",
        &said,
    ];
    assert_eq!(chain(&failure), expected);
}

#[test]
fn a_run_that_failed_is_told_with_what_the_kernel_said_also_by_a_save() {
    let source = io::Error::from_raw_os_error(libc::EFAULT);
    let said = source.to_string();
    let failure = failure(Why::Kernel(source));
    let expected = ["the machine failed", "vCPU 3 at 0x1000: KVM_RUN failed", &said];
    assert_eq!(chain(&SaveError::Failed(Arc::new(failure))), expected);
}

#[test]
fn a_failure_without_a_cause_is_one_sentence() {
    assert_eq!(chain(&failure(Why::Panicked)), ["vCPU 3 at 0x1000: its thread panicked"]);
}
