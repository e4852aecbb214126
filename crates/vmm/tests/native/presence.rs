//! Whether this host can run guests: the one gate of these tests.

use vellum_kvm::{PrepareError, open};
use vellum_presence::{Need, given};
use vellum_vmm::{Backing, Config, GuestLog, Machine, MachineError, MemoryError, Program};

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
        Err(missing) if is_missing(&missing) => Err(missing),
        other => Ok(other.expect("a machine")),
    };
    let need = match config.backing {
        Backing::Small | Backing::Transparent => Need::KvmWay(config.way.name().to_owned()),
        Backing::Huge => Need::HugePages(config.memory),
    };
    given(need, made)
}

/// Whether the host lacks something, and nothing went wrong.
fn is_missing(error: &MachineError) -> bool {
    let way = matches!(error, MachineError::Prepare(PrepareError::Missing(_)));
    way || matches!(error, MachineError::Memory(MemoryError::Pool { .. }))
}
