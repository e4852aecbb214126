//! Write-protect-all: every store of the VM traps again, in constant time.

use crate::breaks::Break;
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use vellum_pte::Format;

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Makes every store trap again, in all slots, at a cost that depends neither on the guest's
    /// memory nor on its vCPUs: a new generation, one settled table for each root, one shoot-down.
    /// The protection is pushed down to the tables one by one, by the faults that meet it.
    ///
    /// On return: every page that a store changes from now on is marked dirty by a fault that ends
    /// after whatever the caller took out of the log before.
    ///
    /// Loads fault because of it only where tables carry no permissions (Arm), at most once for
    /// each closed entry on their path.
    pub fn write_protect_all(&self) {
        let debt = self.debts.raise(self.context());
        let state = self.enter();
        let turn = self.protection.turn(&self.embedder);
        let generation = self.protection.advance(&turn);
        let roots = if self.breaks.has(Break::OneRoot) { 1 } else { usize::MAX };
        for root in state.roots.all().take(roots) {
            let mut locked = root.lock(self.context());
            root.settle(&mut locked, generation, self.context());
        }
        // The entries that a store may pass without the ones above: they are closed at their own root.
        for root in state.sub_pages.roots().filter(|_| !self.breaks.has(Break::OpenSubPageRoot)) {
            let mut locked = root.lock(self.context());
            root.settle(&mut locked, generation, self.context());
        }
        drop(turn);
        drop(state);
        debt.pay();
    }

    /// Ends write-protect-all, lazily: what is closed opens at the next write.
    pub fn write_protect_all_off(&self) {
        self.protection.disable(&self.protection.turn(&self.embedder));
    }

    /// What ends with the last log.
    pub(crate) fn end_protection_without_logs(&self, state: &State<F>) {
        if state.slots.iter().all(|slot| slot.log.is_none()) {
            self.write_protect_all_off();
        }
    }
}
