//! The guest's firmware: as much of PSCI (Arm DEN 0022) as a kernel with two CPUs asks for.

use crate::guest::Start;

/// How the guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// It has switched its machine off: its work is done.
    Off,
    /// It wants to begin anew, which it does when it has panicked.
    Reset,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It comes back with a number.
    Returns(u64),
    /// It ends the guest.
    Ends(Ended),
    /// It switches a CPU on.
    Starts {
        /// Which, by its affinity.
        cpu: u64,
        /// With what.
        start: Start,
    },
}

const VERSION: u64 = 0x8400_0000;
const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const FEATURES: u64 = 0x8400_000a;
const CPU_ON: u64 = 0xc400_0003;

const VERSION_1_0: u64 = 1 << 16;
const NO_TRUSTED_SYSTEM: u64 = 2;
/// It was done.
pub(crate) const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = u64::MAX;
/// It was not.
pub(crate) const INVALID_PARAMETERS: u64 = u64::MAX - 1;

/// Answers the call in the guest's first registers. What is called is in the low half of its register.
pub(crate) fn call([function, first, second, third]: [u64; 4]) -> Answer {
    match function & u64::from(u32::MAX) {
        VERSION => Answer::Returns(VERSION_1_0),
        MIGRATE_INFO_TYPE => Answer::Returns(NO_TRUSTED_SYSTEM),
        FEATURES if is_known(first) => Answer::Returns(SUCCESS),
        SYSTEM_OFF => Answer::Ends(Ended::Off),
        SYSTEM_RESET => Answer::Ends(Ended::Reset),
        CPU_ON => Answer::Starts { cpu: first, start: Start { entry: second, argument: third } },
        _ => Answer::Returns(NOT_SUPPORTED),
    }
}

fn is_known(function: u64) -> bool {
    let function = function & u64::from(u32::MAX);
    [VERSION, MIGRATE_INFO_TYPE, SYSTEM_OFF, SYSTEM_RESET, FEATURES, CPU_ON].contains(&function)
}
