//! Guests that run natively on this host's KVM.
//!
//! Where there is no `/dev/kvm`, or the kernel lacks something, a test says `not run` and why.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod presence;
mod running;

use std::time::{Duration, Instant};
use vellum_vmm::{Config, Guest, Machine, Status};

/// What catches a guest that hangs; nothing else depends on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// 16 MiB and two vCPUs.
fn config() -> Config {
    Config::new(16 << 20, 2)
}

/// Waits until every vCPU has reported a pass with a number of at least so many.
fn until_passes(machine: &Machine, least: u64) {
    let begun = Instant::now();
    while machine.passes().iter().any(|&passes| passes < least) {
        let status = machine.status();
        assert!(matches!(status, Status::Running), "{status:?}");
        assert!(begun.elapsed() < PATIENCE, "{:?} of {least} passes", machine.passes());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Every guest, with a machine that is at its beginning.
fn each_guest(test: impl Fn(Guest, Machine)) {
    for guest in Guest::ALL {
        if let Some((machine, _log)) = presence::machine(&config(), &guest.program()) {
            test(guest, machine);
        }
    }
}
