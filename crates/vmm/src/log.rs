//! The log of a machine's memory.

use crate::ram::Ram;
use std::sync::Arc;
use vellum_kvm::{KvmError, KvmLog, Way};
use vellum_memory::{DirtySource, GfnRange, Layout, PageSet};

/// The kernel's log of a machine's two memslots. It keeps the VM and its memory, whatever becomes of the
/// [`crate::Machine`].
pub struct GuestLog {
    // Before the memory: it has a descriptor of the VM.
    log: KvmLog,
    _ram: Arc<Ram>,
}

impl GuestLog {
    pub(crate) fn new(log: KvmLog, ram: Arc<Ram>) -> Self {
        Self { log, _ram: ram }
    }

    /// How it is kept.
    #[must_use]
    pub fn way(&self) -> Way {
        self.log.way()
    }

    /// From now on it has this bug.
    #[cfg(feature = "breaks")]
    pub fn break_with(&mut self, bug: vellum_kvm::Break) {
        self.log.break_with(bug);
    }
}

impl DirtySource for GuestLog {
    type Error = KvmError;

    fn method(&self) -> &'static str {
        self.log.method()
    }

    fn layout(&self) -> &Layout {
        self.log.layout()
    }

    fn start(&mut self) -> Result<(), KvmError> {
        self.log.start()
    }

    fn stop(&mut self) -> Result<(), KvmError> {
        self.log.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), KvmError> {
        self.log.collect(round)
    }

    fn protect(&mut self, at: usize, range: GfnRange, round: &mut PageSet) -> Result<(), KvmError> {
        self.log.protect(at, range, round)
    }

    fn owe(&mut self, pages: &PageSet) {
        self.log.owe(pages);
    }
}
