//! Calls of one hart, by the sentences of the specification.

use super::*;
use crate::bus::plain::Plain;

const HARTS: u64 = 3;
const SUCCESS: u64 = 0;

const fn code(error: SbiError) -> u64 {
    (error as i64).cast_unsigned()
}

/// Hart 0 runs, the others do not.
#[derive(Default)]
struct Told {
    console: Vec<u8>,
    progress: Vec<(u64, u64)>,
    starts: Vec<(u64, Gpa, u64)>,
}

impl Platform for Told {
    fn write_console(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }

    fn time_ns(&mut self) -> u64 {
        77
    }

    fn progress(&mut self, hart: u64, passes: u64) {
        self.progress.push((hart, passes));
    }

    fn parameter(&mut self, parameter: Parameter) -> u64 {
        100 + parameter as u64
    }

    fn start_hart(&mut self, hart: u64, entry: Gpa, opaque: u64) -> Result<(), StartError> {
        match hart {
            0 => Err(StartError::AlreadyAvailable),
            1..HARTS => {
                self.starts.push((hart, entry, opaque));
                Ok(())
            }
            _ => Err(StartError::NoSuchHart),
        }
    }

    fn hart_status(&mut self, hart: u64) -> Option<HartStatus> {
        match hart {
            0 => Some(HartStatus::Started),
            1..HARTS => Some(HartStatus::Stopped),
            _ => None,
        }
    }
}

/// A hart at an `ecall`, with memory and somebody who is told.
struct Caller {
    hart: Hart,
    memory: Plain,
    told: Told,
}

const PC: Gpa = Gpa::new(0x40);
/// What is in `a1` before a legacy call, which must leave it.
const LEFT: u64 = 0xabcd;

impl Caller {
    fn new() -> Self {
        let hart = Hart::new(0, PC, 0);
        Self { hart, memory: Plain::new(3), told: Told::default() }
    }

    fn after(&mut self, extension: u64, function: u64, arguments: [u64; 3]) -> After {
        self.hart.set_x(Reg::A7, extension);
        self.hart.set_x(Reg::A6, function);
        for (reg, value) in [Reg::A0, Reg::A1, Reg::A2].into_iter().zip(arguments) {
            self.hart.set_x(reg, value);
        }
        call(&mut self.hart, &mut self.memory, &mut self.told)
    }

    /// `a0` and `a1` after a call from which the hart goes on, behind it.
    fn call(&mut self, extension: u64, function: u64, arguments: [u64; 3]) -> (u64, u64) {
        let pc = self.hart.pc().get();
        assert_eq!(self.after(extension, function, arguments), After::Resume);
        assert_eq!(self.hart.pc(), Gpa::new(pc + 4));
        (self.hart.x(Reg::A0), self.hart.x(Reg::A1))
    }
}

fn answer_to(extension: u64, function: u64, arguments: [u64; 3]) -> (u64, u64) {
    Caller::new().call(extension, function, arguments)
}

fn refused(error: SbiError) -> (u64, u64) {
    (code(error), 0)
}

#[test]
fn error_numbers_are_the_specifications() {
    let errors = [
        (SbiError::NotSupported, -2),
        (SbiError::InvalidParameter, -3),
        (SbiError::InvalidAddress, -5),
        (SbiError::AlreadyAvailable, -6),
    ];
    assert!(errors.into_iter().all(|(error, number)| error as i64 == number));
}

#[test]
fn base_tells_versions_and_no_vendor() {
    assert_eq!(answer_to(0x10, 0, [0; 3]), (SUCCESS, 0x0200_0000), "2.0: the major in bits 24 on");
    assert_eq!(answer_to(0x10, 1, [0; 3]), (SUCCESS, IMPLEMENTATION));
    assert_eq!(answer_to(0x10, 2, [0; 3]), (SUCCESS, 1));
    for identity in 4..=6 {
        assert_eq!(answer_to(0x10, identity, [0; 3]), (SUCCESS, 0));
    }
    assert_eq!(answer_to(0x10, 7, [0; 3]), refused(SbiError::NotSupported));
}

#[test]
fn a_probe_finds_the_extensions_that_answer_and_no_other() {
    for extension in EXTENSIONS {
        assert_eq!(answer_to(0x10, 3, [extension, 0, 0]), (SUCCESS, 1), "{extension:#x}");
    }
    // IPI, RFENCE and PMU.
    for extension in [0x0073_5049, 0x5246_4e43, 0x0050_4d55, 3, 7, u64::MAX] {
        assert_eq!(answer_to(0x10, 3, [extension, 0, 0]), (SUCCESS, 0), "{extension:#x}");
    }
}

#[test]
fn what_is_unknown_is_not_supported() {
    for extension in [0x0073_5049, 0x5246_4e43, 0x0050_4d55, 3, 7, 0x0a00_0000, u64::MAX] {
        assert_eq!(answer_to(extension, 0, [1; 3]), refused(SbiError::NotSupported));
    }
    for extension in [0x10, TIME, HSM, SRST, DBCN, VELLUM] {
        for function in [99, u64::MAX] {
            let found = answer_to(extension, function, [1; 3]);
            assert_eq!(found, refused(SbiError::NotSupported), "{extension:#x}");
        }
    }
}

#[test]
fn legacy_calls_answer_in_a0_alone() {
    let mut caller = Caller::new();
    assert_eq!(caller.call(0, 5, [1 << 40, LEFT, 0]), (0, LEFT), "set timer");
    assert_eq!(caller.call(1, 5, [0x1_0041, LEFT, 0]), (0, LEFT), "putchar");
    assert_eq!(caller.call(2, 5, [0, LEFT, 0]), (u64::MAX, LEFT), "getchar: there is no input");
    assert_eq!(caller.told.console, b"A");
    assert_eq!(caller.after(8, 5, [0; 3]), After::Shutdown(ShutdownReason::Finished));
}

#[test]
fn a_timer_is_accepted() {
    assert_eq!(answer_to(0x5449_4d45, 0, [5, 0, 0]), (SUCCESS, 0));
}

#[test]
fn a_console_write_shows_the_bytes_and_says_how_many() {
    let mut caller = Caller::new();
    caller.memory.put(0x1ffe, b"hello");
    assert_eq!(caller.call(0x4442_434e, 0, [5, 0x1ffe, 0]), (SUCCESS, 5));
    assert_eq!(caller.told.console, b"hello");
    assert_eq!(caller.call(DBCN, 0, [0, 0x1ffe, 0]), (SUCCESS, 0));
    assert_eq!(caller.told.console, b"hello");
}

#[test]
fn a_long_console_write_is_cut() {
    let mut caller = Caller::new();
    assert_eq!(caller.call(DBCN, 0, [0x2800, 0x100, 0]), (SUCCESS, WRITE_LIMIT));
    assert_eq!(caller.told.console, [0; 4096]);
}

#[test]
fn a_console_write_of_bytes_that_are_not_there_shows_none() {
    let ranges = [
        [4, 0x2ffe, 0],
        [1, 0x3000, 0],
        [4, 0, 1],
        [4, u64::MAX - 1, 0],
        [u64::MAX, u64::MAX, u64::MAX],
    ];
    for range in ranges {
        let mut caller = Caller::new();
        assert_eq!(caller.call(DBCN, 0, range), refused(SbiError::InvalidParameter), "{range:x?}");
        assert_eq!(caller.told.console, b"");
    }
}

#[test]
fn a_console_write_that_memory_refuses_is_made_again() {
    for refusal in [BusError::OutOfMemory(PC), BusError::Misconfigured(PC)] {
        let mut caller = Caller::new();
        caller.memory.put(0x1000, b"once");
        caller.memory.refusal = Some(refusal);
        assert_eq!(caller.after(DBCN, 0, [4, 0x1000, 0]), After::Fault(refusal));
        assert_eq!((caller.hart.pc(), caller.hart.instret()), (PC, 0));
        assert_eq!((caller.hart.x(Reg::A0), caller.hart.x(Reg::A1)), (4, 0x1000));
        caller.memory.refusal = None;
        let Caller { hart, memory, told } = &mut caller;
        assert_eq!(call(hart, memory, told), After::Resume);
        assert_eq!((hart.x(Reg::A0), hart.x(Reg::A1)), (SUCCESS, 4));
        assert_eq!((hart.instret(), told.console.as_slice()), (1, b"once".as_slice()));
    }
}

#[test]
fn the_console_takes_single_bytes_and_has_none_to_give() {
    let mut caller = Caller::new();
    assert_eq!(caller.call(DBCN, 2, [0xff42, 9, 9]), (SUCCESS, 0));
    assert_eq!(caller.told.console, b"B");
    assert_eq!(caller.call(DBCN, 1, [16, 0x1000, 0]), (SUCCESS, 0));
}

#[test]
fn every_type_of_reset_shuts_down_for_the_reason_given() {
    let reasons = [
        (0, ShutdownReason::Finished),
        (1, ShutdownReason::SystemFailure),
        (0xe000_0000, ShutdownReason::Other(0xe000_0000)),
        (0xffff_ffff, ShutdownReason::Other(0xffff_ffff)),
        // As the calling convention passes a 32-bit number.
        (0xffff_ffff_f000_0000, ShutdownReason::Other(0xf000_0000)),
    ];
    for kind in 0..=2 {
        for (number, reason) in reasons {
            let after = Caller::new().after(0x5352_5354, 0, [kind, number, 0]);
            assert_eq!(after, After::Shutdown(reason));
        }
    }
}

#[test]
fn reserved_types_and_reasons_of_reset_are_invalid() {
    for arguments in [[3, 0, 0], [0xf000_0000, 0, 0], [0, 2, 0], [0, 0xdfff_ffff, 0]] {
        let found = answer_to(SRST, 0, arguments);
        assert_eq!(found, refused(SbiError::InvalidParameter), "{arguments:x?}");
    }
}

#[test]
fn a_hart_is_started_once_where_it_exists() {
    let mut caller = Caller::new();
    assert_eq!(caller.call(0x0048_534d, 0, [2, 0x1000, 9]), (SUCCESS, 0));
    assert_eq!(caller.told.starts, [(2, Gpa::new(0x1000), 9)]);
    assert_eq!(caller.call(HSM, 0, [0, 0x1000, 0]), refused(SbiError::AlreadyAvailable));
    assert_eq!(caller.call(HSM, 0, [3, 0x1000, 0]), refused(SbiError::InvalidParameter));
    assert_eq!(caller.call(HSM, 0, [u64::MAX, 0, 0]), refused(SbiError::InvalidParameter));
    assert_eq!(caller.call(HSM, 0, [1, 0x1002, 0]), refused(SbiError::InvalidAddress));
    assert_eq!(caller.told.starts.len(), 1);
}

#[test]
fn a_hart_has_a_state_where_it_exists() {
    assert_eq!(answer_to(HSM, 2, [0; 3]), (SUCCESS, 0), "started");
    assert_eq!(answer_to(HSM, 2, [1, 0, 0]), (SUCCESS, 1), "stopped");
    assert_eq!(answer_to(HSM, 2, [HARTS, 0, 0]), refused(SbiError::InvalidParameter));
    assert_eq!(answer_to(HSM, 3, [0; 3]), refused(SbiError::NotSupported), "suspend");
}

#[test]
fn a_hart_stops_itself() {
    assert_eq!(Caller::new().after(HSM, 1, [0; 3]), After::StopHart);
}

#[test]
fn our_extension_tells_time_and_parameters_and_takes_progress() {
    let mut caller = Caller::new();
    assert_eq!(caller.call(0x0856_4c4d, 0, [0; 3]), (SUCCESS, 77));
    assert_eq!(caller.call(VELLUM, 1, [12, 0, 0]), (SUCCESS, 0));
    assert_eq!(caller.told.progress, [(0, 12)]);
    for (number, parameter) in (0..).zip(Parameter::ALL) {
        let value = 100 + parameter as u64;
        assert_eq!(caller.call(VELLUM, 2, [number, 0, 0]), (SUCCESS, value));
    }
    for number in [5, u64::MAX] {
        let found = caller.call(VELLUM, 2, [number, 0, 0]);
        assert_eq!(found, refused(SbiError::InvalidParameter));
    }
}
