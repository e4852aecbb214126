//! What only this crate can try: a guest at another level, and states that are not whole.

mod hostile;
mod moved;
mod natively;
#[path = "../tests/native/presence.rs"]
mod presence;

use crate::{Machine, Status};
use std::time::{Duration, Instant};

/// What catches a guest that hangs; nothing else depends on it.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait(machine: &Machine, done: impl Fn(&Status) -> bool) -> Status {
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

/// Waits until every vCPU has reported a pass with a number of at least so many.
fn until_passes(machine: &Machine, least: u64) {
    wait(machine, |status| {
        assert!(matches!(status, Status::Running), "{status:?}");
        machine.passes().iter().all(|&passes| passes >= least)
    });
}

/// Waits until the machine has ended, and says how.
fn until_ended(machine: &Machine) -> Status {
    wait(machine, |status| matches!(status, Status::ShutDown(_) | Status::Failed(_)))
}
