//! The machine in software.

use super::{Life, Movable, StateError, Work, console};
use crate::args::Format;
use crate::event::Ended;
use crate::show::Show;
use std::sync::Arc;
use vellum_machine::machine::{Machine, MachineConfig, MachineError, MachineState, Status};
use vellum_machine::sbi::ShutdownReason;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_pte::{Ept, Npt, Stage2};

impl<F: WalkedFormat> Movable for Machine<F> {
    fn memory(&self) -> &GuestMemoryMmap {
        self.board().memory()
    }

    fn resume(&self) {
        self.resume();
    }

    fn pause(&self) {
        self.pause();
    }

    fn ended(&self) -> Option<(Ended, String)> {
        ended(self.status())
    }

    fn life(&self) -> Life {
        let work = Work::Retired(self.instructions().collect());
        Life { work, passes: self.progress().collect() }
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        self.save().map(|state| state.to_bytes()).map_err(StateError::of)
    }

    fn restore(&self, state: &[u8]) -> Result<(), StateError> {
        let state = MachineState::from_bytes(state).map_err(StateError::of)?;
        self.restore(&state).map_err(StateError::of)
    }
}

/// One that waits for a guest to arrive.
pub(crate) fn vacant(
    config: &MachineConfig,
    format: Format,
    show: &Arc<Show>,
) -> Result<Box<dyn Movable>, MachineError> {
    match format {
        Format::Ept => boxed::<Ept>(config, show),
        Format::Npt => boxed::<Npt>(config, show),
        Format::Stage2 => boxed::<Stage2>(config, show),
    }
}

fn boxed<F: WalkedFormat>(
    config: &MachineConfig,
    show: &Arc<Show>,
) -> Result<Box<dyn Movable>, MachineError> {
    Ok(Box::new(Machine::<F>::vacant(config, Box::new(console(show)))?))
}

/// How and why a machine runs no more.
pub(crate) fn ended(status: Status) -> Option<(Ended, String)> {
    Some(match status {
        Status::Running | Status::Paused => return None,
        Status::ShutDown(ShutdownReason::Finished) => {
            (Ended::ShutDown, "the guest shut down".to_owned())
        }
        Status::ShutDown(ShutdownReason::SystemFailure) => {
            (Ended::Failed, "the guest found something wrong and shut down".to_owned())
        }
        Status::ShutDown(ShutdownReason::Other(number)) => {
            (Ended::Failed, format!("the guest shut down for its reason {number}"))
        }
        Status::Denied(store) => (Ended::Failed, format!("the guest cannot go on: {store}")),
        Status::Failed(failure) => (Ended::Failed, format!("the guest cannot go on: {failure}")),
        Status::Panicked { hart } => (Ended::Failed, format!("the thread of hart {hart} panicked")),
    })
}
