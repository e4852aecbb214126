//! Stores that the TLB alone does not answer: to sub-pages, across pages, and where a walk is due.

use super::fault::Part;
use super::window::{Half, Target};
use super::{Port, byte_at};
use crate::bus::{BusError, Width};
use crate::walker::WalkedFormat;
use vellum_mmu::Access;
use vellum_pte::{Gpa, PAGE_SIZE};

impl<F: WalkedFormat> Port<'_, F> {
    /// Where a store to one page may go, as far as anything cached knows.
    fn write_target(&self, part: Part) -> Option<Target> {
        self.tlb.for_write(part.gpa).or_else(|| self.partial.for_write(part.gpa, part.bytes))
    }

    /// Stores to one page by what is cached until it holds; each time it does not, it is filled.
    #[cold]
    pub(super) fn until_stored<T>(
        &mut self,
        gpa: Gpa,
        width: Width,
        attempt: impl Fn(&Self, Target) -> Option<T>,
    ) -> Result<T, BusError> {
        let part = Part { gpa, bytes: width.bytes(), access: Access::Write };
        loop {
            if let Some(done) = self.write_target(part).and_then(|at| attempt(self, at)) {
                return Ok(done);
            }
            self.fill(part)?;
        }
    }

    /// Stores across two pages: both must permit it before either is written, and a shoot-down
    /// finds all of it done or nothing.
    #[cold]
    pub(super) fn store_across(
        &mut self,
        gpa: Gpa,
        width: Width,
        value: u64,
    ) -> Result<(), BusError> {
        let [first, second] = halves(gpa, width);
        loop {
            if let (Some(one), Some(other)) = (self.write_target(first), self.write_target(second))
            {
                let lower = Half { at: one, bytes: first.bytes, value };
                let upper =
                    Half { at: other, bytes: second.bytes, value: value >> (8 * first.bytes) };
                if self.window.store_both(lower, upper).is_some() {
                    return Ok(());
                }
            }
            self.fill(first)?;
            self.fill(second)?;
        }
    }
}

/// The part of a store before the page's end, and the part behind it.
fn halves(gpa: Gpa, width: Width) -> [Part; 2] {
    let below = PAGE_SIZE - gpa.offset();
    let access = Access::Write;
    let behind = Part { gpa: byte_at(gpa, below), bytes: width.bytes() - below, access };
    [Part { gpa, bytes: below, access }, behind]
}
