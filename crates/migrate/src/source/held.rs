//! The guest and what is known of the attempt, whatever the phase.

use super::{Kept, Options};
use crate::address::Address;
use crate::failure::{BoxError, Cause};
use crate::guest::SourceGuest;
use crate::progress::Phase;
use crate::report::Report;
use std::time::Instant;
use vellum_memory::{DirtySource, Layout};

/// The guest, and what is known of the attempt.
#[derive(Debug)]
pub(super) struct Held<G> {
    pub(super) guest: G,
    pub(super) to: Address,
    pub(super) options: Options,
    pub(super) report: Report,
    began: Instant,
}

impl<G: SourceGuest> Held<G> {
    pub(super) fn new(mut guest: G, to: &Address, options: &Options) -> Self {
        let dirty = guest.dirty();
        let report = Report::new(dirty.method(), dirty.layout().pages());
        Self { guest, to: to.clone(), options: options.clone(), report, began: Instant::now() }
    }

    pub(super) fn layout(&mut self) -> Layout {
        self.guest.dirty().layout().clone()
    }

    /// Stamps the attempt's end on the report.
    pub(super) fn ended(mut self) -> Self {
        self.report.total = self.began.elapsed();
        self
    }

    /// Gives the running guest back with its log off.
    pub(super) fn keep(self, phase: Phase, cause: Cause) -> Box<Kept<G>> {
        self.keep_with(phase, cause, None)
    }

    /// Gives the running guest back after stopping its log.
    pub(super) fn keep_logged(mut self, phase: Phase, cause: Cause) -> Box<Kept<G>> {
        let left_on = self.guest.dirty().stop().err().map(|error| Box::new(error) as BoxError);
        self.keep_with(phase, cause, left_on)
    }

    fn keep_with(self, phase: Phase, cause: Cause, log_left_on: Option<BoxError>) -> Box<Kept<G>> {
        let Self { guest, report, .. } = self.ended();
        Box::new(Kept { guest, failure: cause.during(phase), report, log_left_on })
    }
}
