//! Write-protect-all: every store of the VM traps again, in constant time.

use crate::breaks::Break;
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use crate::table::Table;
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
        self.close_roots(&state, generation);
        drop(turn);
        drop(state);
        debt.pay();
    }

    fn close_roots(&self, state: &State<F>, generation: u64) {
        let roots = if self.breaks.has(Break::OneRoot) { 1 } else { usize::MAX };
        let mut sub_pages = state.sub_pages.roots();
        for root in state.roots.all().take(roots) {
            self.close_both(root, sub_pages.next(), generation);
        }
    }

    /// Closes the two ways that a store may take: the tables of pages, and those of sub-pages, which
    /// it asks where the former are read-only. **Neither lock is given back before both are
    /// settled**: whoever settles leaves for this generation finds no way to them open.
    fn close_both(
        &self,
        pages: &Table<F>,
        sub_pages: Option<&Table<F::SubPages>>,
        generation: u64,
    ) {
        let context = self.context();
        let sub_pages = sub_pages.filter(|_| !self.breaks.has(Break::OpenSubPageRoot));
        let mut beside = sub_pages.map(|root| (root, root.lock(context)));
        let mut locked = pages.lock(context);
        pages.settle(&mut locked, generation, context);
        if let Some((root, locked)) = &mut beside {
            root.settle(locked, generation, context);
        }
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
