//! What a hart's thread does.

use super::gate::{Start, Turn};
use super::{DeniedStore, Ended, HartFailure, Shared};
use crate::bus::BusError;
use crate::port::Port;
use crate::sbi::{self, After, HartStatus, Parameter, Platform, StartError};
use crate::vcpu::{Exit, Hart, INSTRUCTION_BYTES};
use crate::walker::WalkedFormat;
use std::sync::atomic::Ordering;
use vellum_mmu::Denial;
use vellum_pte::Gpa;

/// Instructions between two looks at the gate: some tens of microseconds.
const SLICE: u64 = 1 << 14;

/// How a turn ended.
enum Next {
    /// The machine does something else now.
    Wait,
    /// The hart has nothing to do.
    Rest,
}

/// Drives hart `index` until the machine closes.
pub(super) fn drive<F: WalkedFormat>(shared: &Shared<F>, index: usize, mut port: Port<'_, F>) {
    while let Some(turn) = wait(&mut port, || shared.gate.enter(index)) {
        let next = take_turn(shared, &turn, index, &mut port);
        drop(turn);
        if let Next::Rest = next {
            wait(&mut port, || shared.gate.rest());
        }
    }
}

/// Waits with the port at rest.
fn wait<F: WalkedFormat, T>(port: &mut Port<'_, F>, wait: impl FnOnce() -> T) -> T {
    let _resting = port.rest();
    wait()
}

fn take_turn<F: WalkedFormat>(
    shared: &Shared<F>,
    turn: &Turn<'_>,
    index: usize,
    port: &mut Port<'_, F>,
) -> Next {
    let cell = &shared.harts[index];
    let mut hart = cell.lock();
    if let Some(Start { entry, opaque }) = turn.start {
        let id = hart.id();
        *hart = Hart::new(id, entry, opaque);
    }
    while !turn.is_over() {
        hart.set_time(shared.clock.now());
        let exit = hart.run(port, SLICE);
        let next = follow(shared, turn, &mut hart, port, exit);
        cell.instructions.store(hart.instret(), Ordering::Relaxed);
        if let Some(next) = next {
            return next;
        }
    }
    Next::Wait
}

/// Does what `exit` asks for; `None`: the hart goes on.
fn follow<F: WalkedFormat>(
    shared: &Shared<F>,
    turn: &Turn<'_>,
    hart: &mut Hart,
    port: &mut Port<'_, F>,
    exit: Exit,
) -> Option<Next> {
    match exit {
        Exit::Budget => None,
        Exit::Ecall => call(shared, turn, hart, port),
        // Memory for page tables may be there later; the instruction is restarted.
        Exit::Wfi | Exit::Fault(BusError::OutOfMemory(_)) => Some(Next::Rest),
        Exit::Fault(BusError::Denied(denial)) => {
            shared.gate.deny(denied_store(hart, denial));
            Some(Next::Wait)
        }
        Exit::Illegal { .. } | Exit::Breakpoint | Exit::Misaligned { .. } | Exit::Fault(_) => {
            let failure = HartFailure { hart: hart.id(), pc: hart.pc(), exit };
            shared.gate.end(Ended::Failed(failure));
            Some(Next::Wait)
        }
    }
}

fn denied_store(hart: &Hart, denial: Denial) -> DeniedStore {
    let Denial { gpa, map } = denial;
    DeniedStore { hart: hart.id(), pc: hart.pc(), length: INSTRUCTION_BYTES, gpa, map }
}

fn call<F: WalkedFormat>(
    shared: &Shared<F>,
    turn: &Turn<'_>,
    hart: &mut Hart,
    port: &mut Port<'_, F>,
) -> Option<Next> {
    match sbi::call(hart, port, &mut SharedPlatform(shared)) {
        After::Resume => None,
        After::Fault(error) => follow(shared, turn, hart, port, Exit::Fault(error)),
        After::StopHart => {
            turn.stop_hart();
            Some(Next::Wait)
        }
        After::Shutdown(reason) => {
            shared.gate.end(Ended::ShutDown(reason));
            Some(Next::Wait)
        }
    }
}

/// The machine as the SBI sees it.
struct SharedPlatform<'a, F: WalkedFormat>(&'a Shared<F>);

impl<F: WalkedFormat> Platform for SharedPlatform<'_, F> {
    fn write_console(&mut self, bytes: &[u8]) {
        self.0.console().write(bytes);
    }

    fn time_ns(&mut self) -> u64 {
        self.0.clock.now()
    }

    fn progress(&mut self, hart: u64, passes: u64) {
        let index = usize::try_from(hart).ok();
        if let Some(cell) = index.and_then(|index| self.0.harts.get(index)) {
            cell.progress.store(passes, Ordering::Relaxed);
        }
    }

    fn parameter(&mut self, parameter: Parameter) -> u64 {
        self.0.parameter(parameter)
    }

    fn start_hart(&mut self, hart: u64, entry: Gpa, opaque: u64) -> Result<(), StartError> {
        self.0.gate.start_hart(hart, Start { entry, opaque })
    }

    fn hart_status(&mut self, hart: u64) -> Option<HartStatus> {
        self.0.gate.hart_status(hart)
    }
}
