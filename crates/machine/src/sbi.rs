//! What a guest asks of the machine: the calls of the RISC-V SBI specification, version 2.0.
//!
//! | extension | functions |
//! |---|---|
//! | 0x10 Base | all |
//! | 0x00, 0x01, 0x02, 0x08 legacy | set timer, console putchar, getchar (there is no input), shutdown |
//! | `TIME` | set timer: accepted, and never due, since harts have no interrupts |
//! | `HSM` | start, stop, status |
//! | `SRST` | shutdown; a reboot is a shutdown too |
//! | `DBCN` | write, read (there is no input), write byte |
//! | [`VELLUM`] | time, progress, parameters: see [`Parameter`] |
//!
//! Numbers that a guest passes are hostile. A hart calls with `a7` the extension, `a6` the
//! function, `a0` on the arguments, and gets `a0` an error and `a1` a value; the legacy ones
//! answer in `a0` alone.

#[cfg(test)]
mod tests;

use vellum_pte::Gpa;

use crate::bus::{Bus, BusError, Width};
use crate::vcpu::{Hart, Reg};

/// Our own extension, in the specification's experimental range: "VLM".
///
/// | function | arguments | value |
/// |---|---|---|
/// | 0 time | | nanoseconds since the guest started |
/// | 1 progress | passes this hart has finished | |
/// | 2 parameter | which, as [`Parameter`] numbers them | the parameter |
pub const VELLUM: u64 = 0x0856_4c4d;

/// What this SBI calls itself: no registered implementation.
const IMPLEMENTATION: u64 = 0x56_4c4d;
const SPEC_VERSION: u64 = 2 << 24;
/// How much one console write takes; a guest asks again for the rest.
const WRITE_LIMIT: u64 = 4096;

const BASE: u64 = 0x10;
const TIME: u64 = 0x5449_4d45;
const HSM: u64 = 0x0048_534d;
const SRST: u64 = 0x5352_5354;
const DBCN: u64 = 0x4442_434e;
const LEGACY_TIMER: u64 = 0;
const LEGACY_PUTCHAR: u64 = 1;
const LEGACY_GETCHAR: u64 = 2;
const LEGACY_SHUTDOWN: u64 = 8;
/// The last of the types of reset.
const WARM_REBOOT: u64 = 2;
const RESERVED_REASONS_FROM: u64 = 2;
/// Those of implementations and vendors.
const OTHER_REASONS_FROM: u64 = 0xe000_0000;
const EXTENSIONS: [u64; 10] = [
    BASE,
    TIME,
    HSM,
    SRST,
    DBCN,
    LEGACY_TIMER,
    LEGACY_PUTCHAR,
    LEGACY_GETCHAR,
    LEGACY_SHUTDOWN,
    VELLUM,
];

/// What the machine lends to the SBI.
pub trait Platform {
    /// Shows bytes on the guest's console.
    fn write_console(&mut self, bytes: &[u8]);

    /// Nanoseconds since the guest started.
    fn time_ns(&mut self) -> u64;

    /// Hart `hart` has finished `passes` passes by its own count.
    fn progress(&mut self, hart: u64, passes: u64);

    /// What the guest was configured with.
    fn parameter(&mut self, parameter: Parameter) -> u64;

    /// Starts a hart at `entry`, with `a0` its id and `a1` `opaque`.
    ///
    /// # Errors
    /// There is no such hart, or it is running.
    fn start_hart(&mut self, hart: u64, entry: Gpa, opaque: u64) -> Result<(), StartError>;

    /// What a hart does, or `None` if there is no such hart.
    fn hart_status(&mut self, hart: u64) -> Option<HartStatus>;
}

/// What a guest can ask for, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parameter {
    /// 0: where RAM begins.
    RamBase,
    /// 1: its size in bytes.
    RamSize,
    /// 2: the number of harts.
    Harts,
    /// 3: the seed of the run.
    Seed,
    /// 4: a number whose meaning is the guest's: see [`crate::guests::Builtin`].
    Word,
}

impl Parameter {
    /// All of them, at the index that is their number.
    pub const ALL: [Self; 5] = [Self::RamBase, Self::RamSize, Self::Harts, Self::Seed, Self::Word];

    /// The parameter with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        usize::try_from(number).ok().and_then(|index| Self::ALL.get(index).copied())
    }
}

/// Why a hart cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such hart.
    #[error("there is no such hart")]
    NoSuchHart,
    /// It is running already.
    #[error("the hart is running already")]
    AlreadyAvailable,
}

/// What a hart does, as the hart state management tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HartStatus {
    /// It runs.
    Started,
    /// It waits to be started.
    Stopped,
}

/// Why the guest shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownReason {
    /// It is done.
    Finished,
    /// It found something wrong.
    SystemFailure,
    /// A reason of its own, by number.
    Other(u64),
}

/// What the machine does after a call.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// The hart goes on.
    Resume,
    /// The hart is stopped until somebody starts it.
    StopHart,
    /// All harts are.
    Shutdown(ShutdownReason),
    /// What a faulting instruction asks for: the hart still stands at its `ecall`, and nothing of
    /// the call has happened. It can be restarted.
    Fault(BusError),
}

/// The error numbers of the specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SbiError {
    NotSupported = -2,
    InvalidParameter = -3,
    InvalidAddress = -5,
    AlreadyAvailable = -6,
}

/// What a call comes to.
enum Outcome {
    /// An error and a value, in `a0` and `a1`.
    Answer(Result<u64, SbiError>),
    /// One number, in `a0` alone.
    Legacy(u64),
    /// No answer: the hart does not go on.
    End(After),
    /// None yet: memory refused, and the call is to be made again.
    Restart(BusError),
}

impl From<Result<u64, SbiError>> for Outcome {
    fn from(answer: Result<u64, SbiError>) -> Self {
        Self::Answer(answer)
    }
}

impl From<StartError> for SbiError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NoSuchHart => Self::InvalidParameter,
            StartError::AlreadyAvailable => Self::AlreadyAvailable,
        }
    }
}

/// Performs the `ecall` at which `hart` stands, answers it, and moves the hart on. `bus` is the
/// hart's own: the bytes of a console write are read through it.
pub fn call<B: Bus, P: Platform>(hart: &mut Hart, bus: &mut B, platform: &mut P) -> After {
    let after = match Call::of(hart).perform(bus, platform) {
        Outcome::Restart(error) => return After::Fault(error),
        Outcome::End(after) => after,
        Outcome::Legacy(value) => {
            hart.set_x(Reg::A0, value);
            After::Resume
        }
        Outcome::Answer(result) => {
            answer(hart, result);
            After::Resume
        }
    };
    hart.skip();
    after
}

fn answer(hart: &mut Hart, result: Result<u64, SbiError>) {
    let (error, value) = match result {
        Ok(value) => (0, value),
        Err(error) => (error as i64, 0),
    };
    hart.set_x(Reg::A0, error.cast_unsigned());
    hart.set_x(Reg::A1, value);
}

/// A call, as its registers say.
struct Call {
    hart: u64,
    extension: u64,
    function: u64,
    arguments: [u64; 3],
}

impl Call {
    fn of(hart: &Hart) -> Self {
        Self {
            hart: hart.id(),
            extension: hart.x(Reg::A7),
            function: hart.x(Reg::A6),
            arguments: [Reg::A0, Reg::A1, Reg::A2].map(|reg| hart.x(reg)),
        }
    }

    fn perform<B: Bus, P: Platform>(&self, bus: &mut B, platform: &mut P) -> Outcome {
        match (self.extension, self.function) {
            (LEGACY_TIMER, _) => Outcome::Legacy(0),
            (LEGACY_PUTCHAR, _) => {
                platform.write_console(&[byte(self.arguments[0])]);
                Outcome::Legacy(0)
            }
            (LEGACY_GETCHAR, _) => Outcome::Legacy(u64::MAX),
            (LEGACY_SHUTDOWN, _) => Outcome::End(After::Shutdown(ShutdownReason::Finished)),
            (HSM, 1) => Outcome::End(After::StopHart),
            (SRST, 0) => self.reset(),
            (DBCN, 0) => self.write(bus, platform),
            _ => self.ask(platform).into(),
        }
    }

    /// The calls that need no memory and leave the hart running.
    fn ask<P: Platform>(&self, platform: &mut P) -> Result<u64, SbiError> {
        match self.extension {
            BASE => self.base(),
            TIME if self.function == 0 => Ok(0),
            HSM => self.hart_state(platform),
            DBCN => self.console(platform),
            VELLUM => self.vellum(platform),
            _ => Err(SbiError::NotSupported),
        }
    }

    /// Type and reason are 32-bit numbers; what is above them does not count.
    fn reset(&self) -> Outcome {
        let [kind, reason] = [self.arguments[0], self.arguments[1]].map(|word| word & 0xffff_ffff);
        let reason = match reason {
            0 => ShutdownReason::Finished,
            1 => ShutdownReason::SystemFailure,
            RESERVED_REASONS_FROM..OTHER_REASONS_FROM => {
                return Err(SbiError::InvalidParameter).into();
            }
            other => ShutdownReason::Other(other),
        };
        if kind > WARM_REBOOT {
            return Err(SbiError::InvalidParameter).into();
        }
        Outcome::End(After::Shutdown(reason))
    }

    fn base(&self) -> Result<u64, SbiError> {
        match self.function {
            0 => Ok(SPEC_VERSION),
            1 => Ok(IMPLEMENTATION),
            2 => Ok(1),
            3 => Ok(u64::from(EXTENSIONS.contains(&self.arguments[0]))),
            4..=6 => Ok(0),
            _ => Err(SbiError::NotSupported),
        }
    }

    fn hart_state<P: Platform>(&self, platform: &mut P) -> Result<u64, SbiError> {
        let [hart, entry, opaque] = self.arguments;
        match self.function {
            0 if !entry.is_multiple_of(4) => Err(SbiError::InvalidAddress),
            0 => Ok(platform.start_hart(hart, Gpa::new(entry), opaque).map(|()| 0)?),
            2 => match platform.hart_status(hart) {
                Some(HartStatus::Started) => Ok(0),
                Some(HartStatus::Stopped) => Ok(1),
                None => Err(SbiError::InvalidParameter),
            },
            _ => Err(SbiError::NotSupported),
        }
    }

    fn console<P: Platform>(&self, platform: &mut P) -> Result<u64, SbiError> {
        match self.function {
            1 => Ok(0),
            2 => {
                platform.write_console(&[byte(self.arguments[0])]);
                Ok(0)
            }
            _ => Err(SbiError::NotSupported),
        }
    }

    /// Writes up to [`WRITE_LIMIT`] bytes and says how many; all of them or none.
    fn write<B: Bus, P: Platform>(&self, bus: &mut B, platform: &mut P) -> Outcome {
        match self.read(bus) {
            Ok(bytes) => {
                platform.write_console(&bytes);
                Ok(bytes.len() as u64).into()
            }
            Err(BusError::Unmapped(_) | BusError::ReadOnly(_)) => {
                Err(SbiError::InvalidParameter).into()
            }
            Err(error) => Outcome::Restart(error),
        }
    }

    /// The bytes of a console write. Addresses have 64 bits here, so an upper half is out of reach.
    fn read<B: Bus>(&self, bus: &mut B) -> Result<Vec<u8>, BusError> {
        let [count, low, high] = self.arguments;
        let start = Gpa::new(low);
        let end = low.checked_add(count.min(WRITE_LIMIT)).filter(|_| high == 0);
        let range = low..end.ok_or(BusError::Unmapped(start))?;
        range.map(|at| bus.load(Gpa::new(at), Width::Byte).map(byte)).collect()
    }

    fn vellum<P: Platform>(&self, platform: &mut P) -> Result<u64, SbiError> {
        let argument = self.arguments[0];
        match self.function {
            0 => Ok(platform.time_ns()),
            1 => {
                platform.progress(self.hart, argument);
                Ok(0)
            }
            2 => {
                let parameter = Parameter::from_number(argument);
                Ok(platform.parameter(parameter.ok_or(SbiError::InvalidParameter)?))
            }
            _ => Err(SbiError::NotSupported),
        }
    }
}

const fn byte(value: u64) -> u8 {
    (value & 0xff) as u8
}
