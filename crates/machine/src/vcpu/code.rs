//! Pages of instructions, decoded once.

use vellum_pte::Gfn;

use super::decode::decode;
use super::op::Op;
use crate::bus::{Bus, BusError};

/// Instructions of a page.
pub(super) const PAGE_OPS: usize = 1024;
/// Pages kept, one for each value of the gfn's low bits.
const SLOTS: usize = 64;

/// A page of instructions as memory held it at `epoch`.
#[derive(Debug)]
pub(super) struct CodePage {
    pub(super) gfn: Gfn,
    pub(super) epoch: u64,
    pub(super) ops: [Op; PAGE_OPS],
}

impl CodePage {
    fn fetch<B: Bus>(gfn: Gfn, epoch: u64, bus: &mut B) -> Result<Box<Self>, BusError> {
        let mut words = [0; PAGE_OPS];
        bus.fetch(gfn, &mut words)?;
        Ok(Box::new(Self { gfn, epoch, ops: words.map(decode) }))
    }

    fn is(&self, gfn: Gfn, epoch: u64) -> bool {
        self.gfn == gfn && self.epoch == epoch
    }
}

/// The decoded pages of one hart.
#[derive(Debug)]
pub(super) struct Code {
    slots: [Option<Box<CodePage>>; SLOTS],
}

impl Code {
    pub(super) fn new() -> Self {
        Self { slots: [const { None }; SLOTS] }
    }

    /// Decodes everything anew from here on.
    pub(super) fn forget(&mut self) {
        *self = Self::new();
    }

    /// The page at `gfn` as it is in the bus's current epoch. The epoch is read before the words,
    /// so a change between the two makes the page stale at once.
    pub(super) fn page<B: Bus>(&mut self, gfn: Gfn, bus: &mut B) -> Result<&CodePage, BusError> {
        let epoch = bus.epoch();
        #[allow(clippy::cast_possible_truncation, reason = "it is below SLOTS")]
        let place = (gfn.get() & (SLOTS as u64 - 1)) as usize;
        let slot = &mut self.slots[place];
        slot.take_if(|page| !page.is(gfn, epoch));
        match slot {
            Some(page) => Ok(page),
            None => Ok(slot.insert(CodePage::fetch(gfn, epoch, bus)?)),
        }
    }
}
