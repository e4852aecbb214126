//! Whether this host can run guests: the one gate of these tests.

use vellum_kvm::open;
use vellum_presence::{Need, given};
use vellum_vmm::{Backing, Config, GuestLog, Machine, MachineError, Program};

/// A machine, unless this host has no KVM, or not this way or these pages.
pub(crate) fn machine(config: &Config, program: &Program) -> Option<(Machine, GuestLog)> {
    present(config, || Machine::new(config, program))
}

/// A vacant one.
pub(crate) fn vacant(config: &Config) -> Option<(Machine, GuestLog)> {
    present(config, || Machine::vacant(config))
}

fn present<T>(config: &Config, make: impl FnOnce() -> Result<T, MachineError>) -> Option<T> {
    given(Need::Kvm, open())?;
    let made = match make() {
        Err(missing @ MachineError::Prepare(_)) => {
            given(Need::KvmWay(config.way.name().to_owned()), Err(missing))
        }
        Err(missing @ MachineError::Memory(_)) if config.backing == Backing::Huge => {
            given(Need::HugePages(config.memory), Err(missing))
        }
        other => Some(other.expect("a machine")),
    };
    if made.is_some() && config.backing == Backing::Huge {
        vellum_presence::ran(Need::HugePages(config.memory));
    }
    made
}
