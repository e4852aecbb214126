//! The machine that receives: what the migration library sees of it.

use crate::args::Format;
use crate::event::Event;
use crate::identity::Identity;
use crate::show::Show;
use std::sync::Arc;
use vellum_machine::machine::{
    ConsoleSink, Machine, MachineConfig, MachineError, MachineState, MachineStateError,
    SnapshotError, Status,
};
use vellum_machine::walker::WalkedFormat;
use vellum_memory::Layout;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_migrate::{Destination, Fresh, IncomingGuest, Refusal, RefusalKind};
use vellum_pte::{AddressSpace, Ept, Npt, Stage2};

/// A machine, whatever the format of its entries.
pub(crate) trait AnyMachine {
    fn memory(&self) -> &GuestMemoryMmap;
    fn restore(&self, state: &MachineState) -> Result<(), SnapshotError>;
    fn resume(&self);
    fn pause(&self);
    fn status(&self) -> Status;
    /// Instructions retired by each vCPU in all its life.
    fn instructions(&self) -> Vec<u64>;
    /// Passes finished by each vCPU in all its life.
    fn passes(&self) -> Vec<u64>;
}

impl<F: WalkedFormat> AnyMachine for Machine<F> {
    fn memory(&self) -> &GuestMemoryMmap {
        self.board().memory()
    }
    fn restore(&self, state: &MachineState) -> Result<(), SnapshotError> {
        self.restore(state)
    }
    fn resume(&self) {
        self.resume();
    }
    fn pause(&self) {
        self.pause();
    }
    fn status(&self) -> Status {
        self.status()
    }
    fn instructions(&self) -> Vec<u64> {
        self.instructions().collect()
    }
    fn passes(&self) -> Vec<u64> {
        self.progress().collect()
    }
}

/// Builds machines for guests that arrive.
pub(crate) struct Place {
    pub(crate) show: Arc<Show>,
}

/// A guest that arrives or has arrived.
pub(crate) struct Arrival {
    pub(crate) machine: Box<dyn AnyMachine>,
    /// What it had done before it came.
    pub(crate) before: Before,
    show: Arc<Show>,
}

/// Instructions and passes of each vCPU before the move.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    instructions: Vec<u64>,
    passes: Vec<u64>,
}

/// Why a guest's state cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The bytes are no state.
    #[error(transparent)]
    Bytes(#[from] MachineStateError),
    /// The state is of another machine.
    #[error(transparent)]
    Machine(#[from] SnapshotError),
}

impl Destination for Place {
    type Guest = Arrival;

    fn prepare(&mut self, identity: &[u8], layout: &Layout) -> Result<Arrival, Refusal> {
        let identity = Identity::from_bytes(identity, layout)?;
        let machine = build(&identity, &self.show)
            .map_err(|error| Refusal::new(RefusalKind::OutOfMemory, &error.to_string()))?;
        Ok(Arrival { machine, before: Before::default(), show: Arc::clone(&self.show) })
    }
}

fn build(identity: &Identity, show: &Arc<Show>) -> Result<Box<dyn AnyMachine>, MachineError> {
    let (config, console) = (identity.config(), console(show));
    match identity.format {
        Format::Ept => boxed::<Ept>(&config, console),
        Format::Npt => boxed::<Npt>(&config, console),
        Format::Stage2 => boxed::<Stage2>(&config, console),
    }
}

fn boxed<F: WalkedFormat>(
    config: &MachineConfig,
    console: Box<dyn ConsoleSink>,
) -> Result<Box<dyn AnyMachine>, MachineError> {
    Ok(Box::new(Machine::<F>::vacant(config, console)?))
}

/// Shows what a guest prints, a line at a time.
pub(crate) fn console(show: &Arc<Show>) -> Box<dyn ConsoleSink> {
    let (show, mut line) = (Arc::clone(show), Vec::new());
    Box::new(move |bytes: &[u8]| {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    show.say(&Event::Console { text });
                    line.clear();
                }
                _ if line.len() < LONGEST_LINE => line.push(*byte),
                _ => {}
            }
        }
    })
}

/// A guest that never ends its line must not eat the host's memory.
const LONGEST_LINE: usize = 4096;

impl IncomingGuest for Arrival {
    type Memory = GuestMemoryMmap;
    type Error = RestoreError;

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        self.machine.memory()
    }

    /// A vacant machine's memory is new, and nothing is loaded into it.
    fn fresh(&self) -> Fresh {
        Fresh::Zeros
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        self.machine.restore(&MachineState::from_bytes(state)?)?;
        self.before =
            Before { instructions: self.machine.instructions(), passes: self.machine.passes() };
        Ok(())
    }

    fn resume(&mut self) {
        self.show.say(&Event::Running);
        self.machine.resume();
    }
}

impl Arrival {
    /// What it has done here.
    pub(crate) fn progress(&self) -> Event {
        Event::Progress {
            retired: since(&self.machine.instructions(), &self.before.instructions),
            passes: since(&self.machine.passes(), &self.before.passes),
        }
    }
}

fn since(now: &[u64], before: &[u64]) -> Vec<u64> {
    now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect()
}
