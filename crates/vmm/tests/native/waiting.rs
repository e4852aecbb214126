//! Waiting for a guest. What is waited for is counted; time only catches a guest that hangs.

use std::time::{Duration, Instant};
use vellum_vmm::{Machine, Status};

/// Nothing but a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the machine's status, or something else of it, is as it should be.
pub(crate) fn wait(machine: &Machine, mut done: impl FnMut(&Status) -> bool) -> Status {
    let begun = Instant::now();
    loop {
        let status = machine.status();
        if done(&status) {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "{status:?}, {:?} passes", machine.passes());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until each vCPU has reported a pass with a number of at least so many.
pub(crate) fn until_passes(machine: &Machine, least: u64) {
    until_each(machine, &vec![least; machine.passes().len()]);
}

/// Waits until each vCPU, wherever it is, has reported so many passes more.
pub(crate) fn until_more(machine: &Machine, more: u64) {
    let least: Vec<u64> = machine.passes().into_iter().map(|passes| passes + more).collect();
    until_each(machine, &least);
}

fn until_each(machine: &Machine, least: &[u64]) {
    wait(machine, |status| {
        assert!(matches!(status, Status::Running), "{status:?}");
        machine.passes().iter().zip(least).all(|(passes, least)| passes >= least)
    });
}

/// Waits until the machine has ended, and says how.
pub(crate) fn until_ended(machine: &Machine) -> Status {
    wait(machine, |status| matches!(status, Status::ShutDown(_) | Status::Failed(_)))
}
