//! Stores that the library leaves to whoever decodes the instruction: through its `GuestWriter`,
//! which looks at each byte, logs, and tells the listeners.
//!
//! A compare-exchange is a real one of the host, at the moment when the embedder is asked to write.
//! So it is atomic against every other access, emulated or not: while a page becomes tracked, another
//! vCPU may store to it by its TLB until it is shot down.

use super::Port;
use crate::bus::{BusError, Width};
use crate::denial::{ForbiddenStore, Verdict};
use crate::emulation::{EmulatedStore, exchanging};
use crate::walker::WalkedFormat;
use vellum_mmu::{Denial, Origin, WriteError};
use vellum_pte::Gpa;

impl<F: WalkedFormat> Port<'_, F> {
    /// Makes a store that ended as [`BusError::Emulate`]. May cross pages; all of it is stored, or
    /// nothing, unless memory goes away under it.
    ///
    /// # Errors
    /// [`BusError`], as for any store, but not [`BusError::Emulate`].
    pub fn emulate_store(
        &mut self,
        by: EmulatedStore,
        gpa: Gpa,
        width: Width,
        value: u64,
    ) -> Result<(), BusError> {
        let bytes = value.to_le_bytes();
        Ok(by.during(|| self.write(by, gpa, &bytes[..width.len()]))?)
    }

    /// Makes a compare-exchange that ended as [`BusError::Emulate`]. Returns what memory held.
    ///
    /// # Errors
    /// As for [`emulate_store`](Self::emulate_store).
    pub fn emulate_compare_exchange(
        &mut self,
        by: EmulatedStore,
        gpa: Gpa,
        width: Width,
        (expected, new): (u64, u64),
    ) -> Result<u64, BusError> {
        let bytes = new.to_le_bytes();
        let write = || by.during(|| self.write(by, gpa, &bytes[..width.len()]));
        match exchanging(expected, write) {
            (_, Some(held)) => Ok(held),
            (Ok(()), None) => unreachable!("whoever writes asks the embedder to"),
            (Err(refused), None) => Err(refused.into()),
        }
    }

    fn write(&self, by: EmulatedStore, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        let writer = || self.mmu.guest_writer(Origin::Vcpu(by.hart));
        match writer().write(self.space, gpa, bytes) {
            Err(WriteError::Denied(denial))
                if self.verdict(by, gpa, bytes, denial) == Verdict::LetThrough =>
            {
                writer().overruling_maps().write(self.space, gpa, bytes)
            }
            other => other,
        }
    }

    pub(super) fn has_judge(&self) -> bool {
        self.mmu.embedder().bench().judge().is_some()
    }

    fn verdict(&self, by: EmulatedStore, gpa: Gpa, bytes: &[u8], denial: Denial) -> Verdict {
        match self.mmu.embedder().bench().judge() {
            Some(judge) => judge.judge(&ForbiddenStore { by, gpa, bytes, denial }),
            None => Verdict::Stop,
        }
    }
}

impl From<WriteError> for BusError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NoSlot(gpa) | WriteError::NoBacking(gpa) => Self::Unmapped(gpa),
            WriteError::ReadOnly(gpa) => Self::ReadOnly(gpa),
            WriteError::Denied(denial) => Self::Denied(denial),
        }
    }
}
