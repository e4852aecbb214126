//! The handle of whoever drives a vCPU.

use crate::counters::Event;
use crate::embedder::Embedder;
use crate::fault::{Access, Fault, Outcome, Step};
use crate::mmu::Mmu;
use crate::read_side::Seat;
use crate::ring::RingFull;
use crate::sub_pages::{Miss, Missed, ShootDown};
use crate::vm_context::Context;
use core::cell::Cell;
use core::marker::PhantomData;
use vellum_pte::{AddressSpace, Format, Gpa, SubPageEvent};

/// One vCPU's way into the library. It may move between threads, but is used by one at a time:
/// it is `Send` and not `Sync`.
pub struct Vcpu<'m, F: Format, E: Embedder> {
    mmu: &'m Mmu<F, E>,
    seat: &'m Seat,
    one_at_a_time: PhantomData<Cell<()>>,
}

impl<'m, F: Format, E: Embedder> Vcpu<'m, F, E> {
    pub(crate) const fn new(mmu: &'m Mmu<F, E>, seat: &'m Seat) -> Self {
        Self { mmu, seat, one_at_a_time: PhantomData }
    }

    /// Handles a second-stage fault at `gpa`: looks the page up, maps it or opens it, and logs a
    /// write. Takes no lock, unless something has to be mapped or write-protect-all to be pushed
    /// down. Makes a shoot-down only where the first logged write splits a huge leaf on hardware
    /// that asks for break-before-make.
    #[inline]
    pub fn fault(&mut self, space: AddressSpace, gpa: Gpa, access: Access) -> Outcome {
        let mmu = self.mmu;
        self.seat.tally.count(Event::Fault, 1);
        let outcome = loop {
            match self.attempt(space, gpa, access) {
                Step::Done(outcome) => break outcome,
                Step::Again => {}
                Step::Break(debt, replaced) => mmu.put_in_place(debt, space, replaced),
            }
        };
        if matches!(outcome, Outcome::Mapped | Outcome::Spurious) {
            mmu.embedder.flush_local(gpa);
        }
        outcome
    }

    /// Logs the stores that hardware has logged for this vCPU: the entries of its page-modification log
    /// (Intel SDM vol. 3C, 29.3.6), guest-physical addresses of pages. Bits of an address below the
    /// page count for nothing; a page of no logged slot is no matter. Never fails, never allocates. On
    /// each exit, on a full buffer's above all, and before the handle is dropped for good.
    ///
    /// Also for stores that the embedder has made itself for this vCPU, past the library, where the
    /// vCPU's dirty ring is to name them: [`Mmu::mark_dirty`] knows the bitmap only.
    pub fn log_stores(&mut self, space: AddressSpace, addresses: &[u64]) {
        let state = self.mmu.read_side.enter(self.seat, &self.mmu.embedder);
        for address in addresses {
            let gfn = Gpa::new(*address).gfn();
            if let Some(slot) = state.slots.find(space, gfn) {
                crate::fault::log_write(self.seat.ring(), slot, gfn);
            }
        }
    }

    /// To be asked before each entry into the guest, by a vCPU that has a ring: whether there is room
    /// for what it may log until it is asked again. If not, it stays out until somebody has called
    /// [`Mmu::harvest_rings`] and [`Mmu::reset_rings`].
    ///
    /// # Errors
    /// [`RingFull`]; again and again until then.
    #[inline]
    pub fn may_enter(&self) -> Result<(), RingFull> {
        match self.seat.ring() {
            Some(ring) if ring.is_soft_full() => Err(RingFull),
            _ => Ok(()),
        }
    }

    /// Handles the end of a walk of the sub-page permission table at `gpa` (VM exit 66). After
    /// [`Outcome::Mapped`] the access is tried again, and is permitted, denied or logged like any
    /// other. Makes a shoot-down where write-protect-all has closed leaves of the same table since the
    /// last.
    #[cold]
    pub fn sub_page_event(
        &mut self,
        space: AddressSpace,
        gpa: Gpa,
        event: SubPageEvent,
    ) -> Outcome {
        self.seat.tally.count(Event::Fault, 1);
        if event == SubPageEvent::Misconfiguration {
            return Outcome::Misconfigured;
        }
        let mut made = None;
        loop {
            match self.attempt_miss(space, gpa, made) {
                Missed::Done(outcome) => return outcome,
                Missed::ShootDownFirst(wanted) => {
                    self.mmu.debts.raise(self.mmu.context()).pay();
                    made = Some(wanted);
                }
            }
        }
    }

    fn attempt_miss(&self, space: AddressSpace, gpa: Gpa, made: Option<ShootDown>) -> Missed {
        let mmu = self.mmu;
        let state = mmu.read_side.enter(self.seat, &mmu.embedder);
        let context = Context { tally: &self.seat.tally, ..mmu.context() };
        Miss { state: &state, context, space, gfn: gpa.gfn(), made }.handle()
    }

    #[inline]
    fn attempt(&self, space: AddressSpace, gpa: Gpa, access: Access) -> Step<'m, F, E> {
        let mmu = self.mmu;
        let state = mmu.read_side.enter(self.seat, &mmu.embedder);
        let context = Context { tally: &self.seat.tally, ..mmu.context() };
        let fault = Fault {
            state: &state,
            protection: &mmu.protection,
            invalidations: &mmu.invalidations,
            context,
            ring: self.seat.ring(),
            space,
            gpa,
            gfn: gpa.gfn(),
            access,
        };
        fault.handle()
    }
}

impl<F: Format, E: Embedder> Drop for Vcpu<'_, F, E> {
    fn drop(&mut self) {
        self.seat.vacate();
    }
}
