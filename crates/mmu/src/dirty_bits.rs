//! Hardware's D bits as the log: stores set them without a fault, and whoever reads the log collects
//! them first.
//!
//! Scanning every leaf of a guest would cost what the guest's size says. **Where D may have been set
//! since anybody looked is on record**: every fault leaves a mark for the table of leaves that it opened
//! the way to. Below a closed way no store passes without such a fault; so after a
//! write-protect-all the marks name the tables touched since, and a round costs one fault for each
//! of them instead of one for each page. `docs/dirty-bits.md` has the whole story.

use crate::allocate::OutOfMemory;
use crate::breaks::{Break, Breaks};
use crate::debts::Debt;
use crate::dirty::{DirtySet, Initial, bits};
use crate::embedder::Embedder;
use crate::frame::Closed;
use crate::lock::SpinLock;
use crate::log::Log;
use crate::mmu::{Mmu, State};
use crate::slots::Slot;
use crate::table::Table;
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Gpa, Level, SlotId};

/// Whether stores to 4 KiB leaves are logged by hardware's D bits. Huge leaves are write-protected
/// always: their D says nothing of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyBits {
    /// They are not: leaves are write-protected, and faults log.
    Unused,
    /// Hardware sets D (EPT with EPTP bit 6; NPT always; Arm with VTCR_EL2.{HA,HD}), and the tables
    /// that were touched are scanned.
    Scanned,
    /// Hardware sets D and logs each page whose D it sets (Intel's page-modification logging, SDM vol.
    /// 3C, 29.3.6). The embedder hands over what it has logged ([`Vcpu::log_stores`](crate::Vcpu::log_stores)).
    Logged,
}

/// The tables of leaves of one slot where D may have been set since anybody looked.
#[derive(Debug)]
pub(crate) struct Touched {
    /// A bit for as many pages as a table of leaves is for, from the one with the slot's first page on.
    regions: DirtySet,
    /// Whoever finds no region marked may have to wait for another to be done with it.
    turn: SpinLock<()>,
}

impl Touched {
    /// A log that begins all set protects nothing: D may be set anywhere.
    pub(crate) fn new<F: Format>(
        pages: u64,
        initial: Initial,
        breaks: Breaks,
    ) -> Result<Self, OutOfMemory> {
        // However the slot lies, or will lie when it has moved.
        let regions = pages.div_ceil(Table::<F>::pages_at(Level::L2)) + 1;
        let regions = DirtySet::new(regions, initial, breaks)?;
        Ok(Self { regions, turn: SpinLock::new(()) })
    }
}

impl<F: Format> State<F> {
    /// Notes that stores to the pages of a table of leaves may go on without a fault, whichever slots
    /// they are in. **After the way is open, and before the fault ends.**
    #[cold]
    pub(crate) fn touch(&self, space: AddressSpace, gfn: Gfn) {
        let pages = Table::<F>::around(gfn, Level::L2);
        for slot in self.slots.over(space, pages) {
            slot.touch::<F>(gfn.max(slot.spec.range.first()));
        }
    }
}

impl Slot {
    /// The same, of those pages that are this slot's.
    pub(crate) fn touch<F: Format>(&self, gfn: Gfn) {
        let log = self.log.as_ref();
        if let Some(touched) = log.and_then(|log| log.touched.as_ref()) {
            let region = self.region::<F>(gfn);
            touched.regions.prepare(region);
            touched.regions.mark(region);
        }
    }

    fn region<F: Format>(&self, gfn: Gfn) -> u64 {
        let each = Table::<F>::pages_at(Level::L2);
        gfn.get() / each - self.spec.range.first().get() / each
    }

    /// The slot's pages in a region; none past its end.
    fn pages_of<F: Format>(&self, region: u64) -> Option<GfnRange> {
        let each = Table::<F>::pages_at(Level::L2);
        let first = (self.spec.range.first().get() / each + region) * each;
        GfnRange::new(Gfn::new(first), each)?.intersection(self.spec.range)
    }
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Brings a slot's log up to what hardware knows. On return a store sets D again. Before every
    /// read of the log.
    pub(crate) fn collect(&self, id: SlotId) {
        match self.config.dirty_bits {
            DirtyBits::Unused => {}
            DirtyBits::Logged => self.drain_logs(),
            DirtyBits::Scanned => self.scan(id),
        }
    }

    /// Logs what hardware has logged by itself.
    pub(crate) fn drain_logs(&self) {
        if self.config.dirty_bits == DirtyBits::Logged {
            self.embedder.drain_logs(&mut |space, address| {
                self.mark_dirty(space, Gpa::new(address).gfn());
            });
        }
    }

    /// What a leaf that has gone knew of its page is in the log from now on.
    pub(crate) fn credit(&self, state: &State<F>, space: AddressSpace, gfn: Gfn) {
        let counts =
            self.config.dirty_bits == DirtyBits::Scanned && !self.breaks.has(Break::DropCredit);
        if let Some(slot) = state.slots.find(space, gfn).filter(|_| counts) {
            slot.mark(gfn);
        }
    }

    fn scan(&self, id: SlotId) {
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        if let Ok(slot) = state.slots.named(id) {
            self.scan_slot(&state, slot, &mut debt);
        }
        drop(state);
        drop(debt);
    }

    /// Nothing, where D bits are not scanned.
    pub(crate) fn scan_slot(&self, state: &State<F>, slot: &Slot, debt: &mut Debt<'_, E>) {
        let Some(log) = slot.log.as_deref() else { return };
        let Some(touched) = &log.touched else { return };
        let turn = touched.turn.lock(&self.embedder);
        touched.regions.take(|word, mask| {
            for bit in bits(mask) {
                let region = (word * 64 + bit) as u64;
                self.scan_region(state, slot, log, region, debt);
            }
        });
        drop(turn);
    }

    /// Credits D to the log, **clearing it first**: whoever cleared it after could clear a later
    /// store's.
    fn scan_region(
        &self,
        state: &State<F>,
        slot: &Slot,
        log: &Log,
        region: u64,
        debt: &mut Debt<'_, E>,
    ) {
        let Some(pages) = slot.pages_of::<F>(region) else { return };
        let root = state.roots.of(slot.spec.space, pages.first());
        let table = root.lowest(pages.first());
        // Asked before the scan. Where the way is open, D may be set again after it; where it is
        // closed, by translations that somebody has not shot down yet (F2).
        let open =
            root.is_open_to(pages.first()) || state.sub_pages.pass(slot.spec.space, pages.first());
        let stays = open || debt.another_is_outstanding();
        if stays && !self.breaks.has(Break::ForgetTouched) {
            slot.touch::<F>(pages.first());
        }
        if table.level() > Level::L1 {
            return;
        }
        let span = table.span(pages);
        for index in table.writable().iter().filter(|index| span.contains(index)) {
            let taken = table.entry(index).take_dirty::<F>();
            if taken == Closed::Now {
                log.pages.mark(slot.page(table.base_of(index)));
                if !self.breaks.has(Break::ClearQuietly) {
                    debt.note(taken);
                }
            }
        }
    }
}
