//! The guest's firmware: as much of PSCI (Arm DEN 0022) as a kernel with one CPU asks for.

/// How the guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// It has switched its machine off: its work is done.
    Off,
    /// It wants to begin anew, which it does when it has panicked.
    Reset,
}

const VERSION: u64 = 0x8400_0000;
const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const FEATURES: u64 = 0x8400_000a;

const VERSION_1_0: u64 = 1 << 16;
const NO_TRUSTED_SYSTEM: u64 = 2;
const NOT_SUPPORTED: u64 = u64::MAX;

/// What a call comes back with, or the end.
pub(crate) fn call(function: u64, argument: u64) -> Result<u64, Ended> {
    match function {
        VERSION => Ok(VERSION_1_0),
        MIGRATE_INFO_TYPE => Ok(NO_TRUSTED_SYSTEM),
        FEATURES if is_known(argument) => Ok(0),
        SYSTEM_OFF => Err(Ended::Off),
        SYSTEM_RESET => Err(Ended::Reset),
        _ => Ok(NOT_SUPPORTED),
    }
}

fn is_known(function: u64) -> bool {
    [VERSION, MIGRATE_INFO_TYPE, SYSTEM_OFF, SYSTEM_RESET, FEATURES].contains(&function)
}
