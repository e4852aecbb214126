//! Who hears of stores, on the harts' threads.

use super::tally::{Denied, Store, Tally};
use std::sync::Arc;
use vellum_machine::denial::{DenialJudge, ForbiddenStore, Verdict};
use vellum_machine::embedder::BoardEmbedder;
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::walker::WalkedFormat;
use vellum_mmu::{Call, WriteListener, Written};

/// Hears of stores that were made, and judges those that a map forbids.
pub(crate) struct Ear {
    tally: Arc<Tally>,
    verdict: Verdict,
}

impl Ear {
    /// Stores that a map forbids come to `verdict`.
    pub(crate) fn new(tally: Arc<Tally>, verdict: Verdict) -> Self {
        Self { tally, verdict }
    }
}

impl<F: WalkedFormat> WriteListener<F, BoardEmbedder> for Ear {
    fn write(&self, _: &Call<'_, F, BoardEmbedder>, written: &Written<'_>) {
        // Nobody but harts writes here, and each of their writes that is heard of is an emulated one.
        if let Some(EmulatedStore { hart, pc }) = EmulatedStore::current() {
            self.tally.add(Store::new(hart, pc.get(), written.gpa.get(), written.bytes));
        }
    }
}

impl DenialJudge for Ear {
    /// What is let through is heard of when it is made.
    fn judge(&self, store: &ForbiddenStore<'_>) -> Verdict {
        if self.verdict == Verdict::Stop {
            self.tally.deny(Denied::from(store));
        }
        self.verdict
    }
}
