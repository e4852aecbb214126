//! The machine that sends: what the migration library sees of it.

use crate::event::Event;
use crate::identity::Identity;
use crate::machine::{Movable, StateError};
use crate::show::Show;
use vellum_memory::DirtySource;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_migrate::{Phase, Progress, SourceGuest};
use vellum_pte::AddressSpace;

/// A running machine that can move away, and its log. Says when it stops and, beforehand, when it
/// runs. One that has ended does not run, whoever resumes it.
pub(crate) struct Source<'m, M, L> {
    pub(crate) machine: &'m M,
    pub(crate) log: L,
    pub(crate) identity: Identity,
    pub(crate) show: &'m Show,
}

impl<M: Movable, L: DirtySource> SourceGuest for Source<'_, M, L> {
    type Memory = GuestMemoryMmap;
    type Dirty = L;
    type Error = StateError;

    fn identity(&self) -> Vec<u8> {
        self.identity.to_bytes()
    }

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        self.machine.memory()
    }

    fn dirty(&mut self) -> &mut L {
        &mut self.log
    }

    fn pause(&mut self) {
        self.machine.pause();
        self.show.say(&Event::Paused);
    }

    fn resume(&mut self) {
        if self.machine.ended().is_none() {
            self.show.say(&Event::Running);
        }
        self.machine.resume();
    }

    fn save_state(&mut self) -> Result<Vec<u8>, StateError> {
        self.machine.save()
    }
}

/// Turns the library's progress into events.
pub(crate) struct Watch<'s> {
    show: &'s Show,
    phase: Option<Phase>,
    round: u32,
}

impl<'s> Watch<'s> {
    /// Nothing seen yet.
    pub(crate) fn new(show: &'s Show) -> Self {
        Self { show, phase: None, round: 0 }
    }

    /// Tells whoever looks on.
    pub(crate) fn see(&mut self, progress: Progress) {
        if self.phase.replace(progress.phase) != Some(progress.phase) {
            self.enter(progress.phase);
        }
        let (round, done, of) = (progress.round, progress.sent, progress.sent + progress.remaining);
        if of == 0 {
            // A round that has no pages yet: what it holds is still being found.
        } else if round > self.round {
            self.round = round;
            self.show.say(&Event::Round { round, dirty: of });
        } else if round > 0 {
            self.show.say(&Event::Copying { round, done, of });
        }
    }

    fn enter(&self, phase: Phase) {
        match phase {
            Phase::Start => self.show.say(&Event::Connected),
            Phase::HandOver => self.show.say(&Event::HandingOver),
            _ => {}
        }
    }
}
