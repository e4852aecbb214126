//! What a port does when its TLB does not know: walk, and if the walk is refused, ask the library.

use super::Port;
use super::host::HostAddress;
use super::local_flush::flushed_by;
use super::sizes::Sizes;
use super::window::Target;
use crate::bus::BusError;
use crate::page_log::SharedPageLog;
use crate::walker::{
    AfterFault, Request, SetsDirty, SppFailure, Translation, Violation, Walk, WalkedFormat, walk,
};
use vellum_mmu::{Access, Outcome};
use vellum_pte::{Gfn, Gpa, SubPageEvent};

/// What came of looking an address up: the walk's end, and its epoch.
pub(super) type Found = (u64, Result<Translation, Refused>);

/// An access, or the part of one that lies in one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) gpa: Gpa,
    /// How many bytes, at least one.
    pub(super) bytes: u64,
    pub(super) access: Access,
}

/// Who refused an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// What was cached, without a walk.
    ByTlb,
    /// The tables.
    ByTables(Violation),
}

impl<F: WalkedFormat> Port<'_, F> {
    /// Walks until the TLB has what the access needs, or it turns out impossible.
    #[cold]
    pub(super) fn fill(&mut self, part: Part) -> Result<(), BusError> {
        let (epoch, translation) = self.translate(part)?;
        self.tlb.insert(part.gpa.gfn(), epoch, translation);
        self.partial.insert(part.gpa.gfn(), epoch, translation);
        Ok(())
    }

    /// Where to fetch the page from. Fetches have no TLB: there is one a page and epoch.
    pub(super) fn fetch_target(&mut self, gfn: Gfn) -> Result<Target, BusError> {
        let first = Part { gpa: gfn.gpa(), bytes: 1, access: Access::Execute };
        let (epoch, translation) = self.translate(first)?;
        Ok(Target { host: HostAddress::new(translation.frame, 0), epoch })
    }

    fn translate(&mut self, part: Part) -> Result<(u64, Translation), BusError> {
        loop {
            let found = self.look_up(part);
            self.check_size(part.gpa, found)?;
            match found {
                (epoch, Ok(translation)) => return Ok((epoch, translation)),
                (_, Err(refused)) => self.resolve(part, refused)?,
            }
        }
    }

    /// Asks what is cached, and then the tables.
    pub(super) fn look_up(&mut self, part: Part) -> Found {
        let (gfn, epoch) = (part.gpa.gfn(), self.window.epoch());
        if self.refusals.as_ref().is_some_and(|held| held.refuse(gfn, epoch, part.access)) {
            return (epoch, Err(Refused::ByTlb));
        }
        let (epoch, walked) = self.walk(part);
        let found = walked.map_err(Refused::ByTables);
        if let (Some(held), Some(leaf)) = (&mut self.refusals, leaf(found)) {
            held.keep(gfn, epoch, leaf);
        }
        (epoch, found)
    }

    /// Where D is logged, an access that may set it exits first if there is no room for another entry.
    /// What was logged may fill the dirty ring: so that is asked before the next entry, as always.
    fn walk(&mut self, part: Part) -> (u64, Result<Translation, Violation>) {
        let Part { gpa, bytes, access } = part;
        let writes = matches!(access, Access::Write | Access::Walk);
        if writes && self.page_log.as_ref().is_some_and(SharedPageLog::is_full) {
            self.drain_page_log();
            self.wait_for_room();
        }
        let (epoch, walked) = self.walk_tables(gpa, bytes, access);
        if let (Some(log), Ok(Translation { sets_dirty: SetsDirty::Yes, .. })) =
            (&self.page_log, walked)
        {
            log.write(gpa);
        }
        (epoch, walked)
    }

    /// What an exit does: whatever the processor has logged is the library's.
    pub(super) fn drain_page_log(&mut self) {
        if let Some(log) = &self.page_log {
            let vcpu = &mut self.vcpu;
            log.drain(|space, address| vcpu.log_stores(space, &[address]));
        }
    }

    /// What an entry asks before: whether there is room in the dirty ring. If not, this port empties
    /// all rings, as a monitor does on such an exit.
    fn wait_for_room(&mut self) {
        while self.vcpu.may_enter().is_err() {
            if let Some(reaped) = self.mmu.embedder().reaped() {
                reaped.reap(self.mmu);
            }
        }
    }

    fn walk_tables(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        access: Access,
    ) -> (u64, Result<Translation, Violation>) {
        let (root, regime, spp_root) = (self.root, self.regime, self.spp_root);
        let cache = &mut self.cache;
        self.window.walking(|epoch| {
            let request = Request { root, regime, gpa, access, bytes, spp_root, epoch };
            (epoch, walk::<F::Walker>(request, cache))
        })
    }

    /// Stops where the tables have another size of leaf for the address than something cached. Tables
    /// of a later epoch may have: who changed them has shot the old size down before.
    pub(super) fn check_size(&mut self, gpa: Gpa, (epoch, found): Found) -> Result<(), BusError> {
        let (Some(sizes), Some(leaf)) = (&mut self.sizes, leaf(found)) else { return Ok(()) };
        let differ = sizes.found(gpa.gfn(), epoch, leaf.level) == Sizes::Differ;
        if differ && self.window.epoch() == epoch {
            return Err(BusError::TlbConflict(gpa));
        }
        Ok(())
    }

    pub(super) fn resolve(&mut self, part: Part, why: Refused) -> Result<(), BusError> {
        let gpa = part.gpa;
        if why == Refused::ByTables(Violation::Misconfigured) {
            return Err(BusError::Misconfigured(gpa));
        }
        match self.exit(part, why) {
            Outcome::Mapped | Outcome::Spurious => {
                self.wait_for_room();
                Ok(())
            }
            Outcome::Retry => {
                std::thread::yield_now();
                Ok(())
            }
            Outcome::Emulate => {
                self.enter_with_sub_pages();
                Err(BusError::Emulate(gpa))
            }
            // A judge is told what would be stored, which whoever decodes the instruction knows.
            Outcome::Denied(_) if self.has_judge() => Err(BusError::Emulate(gpa)),
            Outcome::Denied(denial) => Err(BusError::Denied(denial)),
            Outcome::Mmio | Outcome::NoBacking => Err(BusError::Unmapped(gpa)),
            Outcome::ReadOnly => Err(BusError::ReadOnly(gpa)),
            Outcome::Misconfigured => Err(BusError::Misconfigured(gpa)),
            Outcome::OutOfMemory => Err(BusError::OutOfMemory(gpa)),
        }
    }

    /// Sub-page permissions may have been activated since this processor entered the guest: the entry
    /// after this exit gives it SPPTP.
    fn enter_with_sub_pages(&mut self) {
        self.spp_root = self.spp_root.or_else(|| self.mmu.sub_page_root(self.space));
    }

    /// Has the library handle an exit, and forgets what the processor forgets: by itself before, or
    /// as it was told meanwhile.
    fn exit(&mut self, part: Part, why: Refused) -> Outcome {
        let Part { gpa, access, .. } = part;
        let (vcpu, space) = (&mut self.vcpu, self.space);
        match F::Walker::AFTER_FAULT {
            AfterFault::Nothing => {
                self.tlb.forget(gpa.gfn());
                self.partial.forget(gpa.gfn());
                self.cache.forget(gpa);
                match why {
                    Refused::ByTables(Violation::Spp(failure)) => {
                        vcpu.sub_page_event(space, gpa, event(failure))
                    }
                    _ => vcpu.fault(space, gpa, access),
                }
            }
            AfterFault::Everything => {
                let (outcome, flushed) = flushed_by(|| vcpu.fault(space, gpa, access));
                flushed.into_iter().for_each(|gpa| self.flush(gpa));
                outcome
            }
        }
    }

    /// Forgets what is cached for one address.
    fn flush(&mut self, gpa: Gpa) {
        self.tlb.forget(gpa.gfn());
        self.partial.forget(gpa.gfn());
        self.cache.forget(gpa);
        self.refusals.iter_mut().for_each(|held| held.forget(gpa.gfn()));
    }
}

/// What VM exit 66 says.
fn event(failure: SppFailure) -> SubPageEvent {
    match failure {
        SppFailure::Miss => SubPageEvent::Miss,
        SppFailure::Misconfigured => SubPageEvent::Misconfiguration,
    }
}

/// The leaf that a walk has found, whether it permits the access or not.
fn leaf(found: Result<Translation, Refused>) -> Option<Translation> {
    match found {
        Ok(leaf) | Err(Refused::ByTables(Violation::Denied(leaf))) => Some(leaf),
        Err(_) => None,
    }
}
