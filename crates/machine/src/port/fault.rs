//! What a port does when its TLB does not know: walk, and if the walk is refused, ask the library.

use super::Port;
use super::host::HostAddress;
use super::window::Target;
use crate::bus::BusError;
use crate::walker::{Request, Translation, Violation, WalkedFormat, walk};
use vellum_mmu::{Access, Outcome};
use vellum_pte::{Gfn, Gpa};

impl<F: WalkedFormat> Port<'_, F> {
    /// Walks until the TLB has `gpa` for `access`, or the access turns out impossible.
    #[cold]
    pub(super) fn fill(&mut self, gpa: Gpa, access: Access) -> Result<(), BusError> {
        let (epoch, translation) = self.translate(gpa, access)?;
        self.tlb.insert(gpa.gfn(), epoch, translation);
        Ok(())
    }

    /// Where to fetch the page from. Fetches have no TLB: there is one a page and epoch.
    pub(super) fn fetch_target(&mut self, gfn: Gfn) -> Result<Target, BusError> {
        let (epoch, translation) = self.translate(gfn.gpa(), Access::Execute)?;
        Ok(Target { host: HostAddress::new(translation.frame, 0), epoch })
    }

    fn translate(&mut self, gpa: Gpa, access: Access) -> Result<(u64, Translation), BusError> {
        loop {
            match self.walk(gpa, access) {
                (epoch, Ok(translation)) => return Ok((epoch, translation)),
                (_, Err(violation)) => self.resolve(gpa, access, violation)?,
            }
        }
    }

    fn walk(&mut self, gpa: Gpa, access: Access) -> (u64, Result<Translation, Violation>) {
        let (root, cache) = (self.root, &mut self.cache);
        self.window.walking(|epoch| {
            (epoch, walk::<F::Walker>(Request { root, gpa, access, epoch }, cache))
        })
    }

    /// A violation forgets what was cached for the address, as hardware does.
    fn resolve(&mut self, gpa: Gpa, access: Access, why: Violation) -> Result<(), BusError> {
        if why == Violation::Misconfigured {
            return Err(BusError::Misconfigured(gpa));
        }
        self.tlb.forget(gpa.gfn());
        self.cache.forget(gpa);
        match self.vcpu.fault(self.space, gpa, access) {
            Outcome::Mapped | Outcome::Spurious => Ok(()),
            Outcome::Retry => {
                std::thread::yield_now();
                Ok(())
            }
            Outcome::Mmio | Outcome::NoBacking => Err(BusError::Unmapped(gpa)),
            Outcome::ReadOnly => Err(BusError::ReadOnly(gpa)),
            Outcome::OutOfMemory => Err(BusError::OutOfMemory(gpa)),
        }
    }
}
