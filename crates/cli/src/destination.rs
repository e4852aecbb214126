//! The machine that receives: what the migration library sees of it.

use crate::event::Event;
use crate::identity::Identity;
use crate::machine::{Life, Movable, StateError};
use crate::show::Show;
use std::sync::Arc;
use vellum_memory::Layout;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_migrate::{Destination, Fresh, IncomingGuest, Refusal};
use vellum_pte::AddressSpace;

/// Builds machines for guests that arrive.
pub(crate) struct Place {
    pub(crate) show: Arc<Show>,
}

/// A guest that arrives or has arrived.
pub(crate) struct Arrival {
    pub(crate) machine: Box<dyn Movable>,
    /// What it had done before it came.
    before: Life,
    show: Arc<Show>,
}

impl Destination for Place {
    type Guest = Arrival;

    fn prepare(&mut self, identity: &[u8], layout: &Layout) -> Result<Arrival, Refusal> {
        let machine = Identity::from_bytes(identity, layout)?.build(layout, &self.show)?;
        let before = machine.life();
        Ok(Arrival { machine, before, show: Arc::clone(&self.show) })
    }
}

impl IncomingGuest for Arrival {
    type Memory = GuestMemoryMmap;
    type Error = StateError;

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        self.machine.memory()
    }

    /// A vacant machine's memory is new, and nothing is loaded into it.
    fn fresh(&self) -> Fresh {
        Fresh::Zeros
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateError> {
        self.machine.restore(state)?;
        self.before = self.machine.life();
        Ok(())
    }

    /// One that had ended before it came does not run, whoever resumes it.
    fn resume(&mut self) {
        if self.machine.ended().is_none() {
            self.show.say(&Event::Running);
        }
        self.machine.resume();
    }
}

impl Arrival {
    /// What it has done here.
    pub(crate) fn life(&self) -> Life {
        self.machine.life().since(&self.before)
    }
}
