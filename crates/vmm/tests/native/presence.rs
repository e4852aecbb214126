//! Whether this host can run guests.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use vellum_vmm::{Config, GuestLog, Machine, MachineError, MemoryError, Program};

/// A machine, unless this host has no KVM, or not this way or these pages; then it says so.
pub(crate) fn machine(config: &Config, program: &Program) -> Option<(Machine, GuestLog)> {
    unless_missing(Machine::new(config, program))
}

/// A vacant one.
pub(crate) fn vacant(config: &Config) -> Option<(Machine, GuestLog)> {
    unless_missing(Machine::vacant(config))
}

fn unless_missing<T>(made: Result<T, MachineError>) -> Option<T> {
    match made {
        Err(
            missing @ (MachineError::Open(_)
            | MachineError::Prepare(_)
            | MachineError::Memory(MemoryError::Pool { .. })),
        ) => {
            not_run(&missing);
            None
        }
        other => Some(other.expect("a machine")),
    }
}

/// Says once why something was not run, past the harness, which keeps to itself what passing tests say.
pub(crate) fn not_run(reason: &impl ToString) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let said = format!("not run: {}", reason.to_string());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(said.clone()) {
        writeln!(std::io::stderr(), "{said}").expect("somebody listens");
    }
}
