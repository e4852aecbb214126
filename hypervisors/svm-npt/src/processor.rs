//! A vCPU on SVM.
#![allow(unsafe_code)]

use crate::operation::{Flush, asids, narrowest_flush};
use crate::vmcb::{Field, Vmcb};
use crate::{entry, exit, presence, state};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::SubPageHardware;
use vellum_pte::{Gpa, Level, Npt};
use vm::{Exit, Features, GuestMemory, Processor, Store, Tables, Work};
use x86_guest::walks::OwnTables;
use x86_guest::{Hypercall, Registers};

/// How many vCPUs there were: each has a tag of its own, as far as tags go.
static TAGS: AtomicU64 = AtomicU64::new(0);

/// The control block, and what the processor does not keep in it.
pub(crate) struct Svm {
    vmcb: Box<Vmcb>,
    registers: Registers,
    asid: u64,
    /// The last shoot-down that this vCPU has answered. It begins without: whoever had its tag
    /// before has left translations behind.
    answered: Option<u64>,
}

impl Svm {
    /// One entry: `None` if another CPU has ended it.
    fn enter_once(&mut self) -> Option<Exit> {
        let count = presence::enter();
        let owes = self.answered.replace(count) != Some(count);
        let flush = if owes { narrowest_flush() } else { Flush::None };
        self.vmcb.set(Field::AsidAndFlush, self.asid | (flush as u64) << 32);
        // SAFETY: `new` has completed the block; the library's tables lead to what `Host` resolved.
        unsafe { entry::enter(&mut self.registers, &mut self.vmcb) };
        presence::leave();
        exit::decode(&self.vmcb, self.registers.loaded())
    }
}

impl OwnTables for Svm {
    /// What the TLB holds of the old ones goes.
    fn set_page_tables(&mut self, root: Gpa) {
        self.vmcb.set(Field::Cr3, root.get());
        self.answered = None;
    }
}

impl Processor for Svm {
    type Format = Npt;

    fn features() -> Features {
        Features { accessed_dirty: true, page_log: false, sub_pages: SubPageHardware::Absent }
    }

    fn lay_out(memory: GuestMemory) {
        x86_guest::lay_out(memory, Hypercall::Vmmcall);
    }

    fn new(tables: Tables) -> Self {
        let asid = 1 + TAGS.fetch_add(1, Ordering::Relaxed) % (asids() - 1);
        let registers = Registers::default();
        let mut new = Self { vmcb: Vmcb::new(), registers, asid, answered: None };
        state::set_fixed(&mut new.vmcb);
        new.load(tables);
        new
    }

    /// # Panics
    /// If the root is not where the host's own paging begins: NPT walks as the host does.
    fn load(&mut self, tables: Tables) {
        assert_eq!(tables.shape.level, Level::L4, "the host walks four levels");
        // Whatever the TLB holds under its tag is of other tables.
        self.answered = None;
        self.vmcb.set(Field::NestedRoot, tables.root.address());
    }

    fn begin(&mut self, work: Work) {
        self.registers = Registers::for_work(work);
        self.vmcb.set(Field::Rip, x86_guest::ENTRY);
    }

    fn enter(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.enter_once() {
                return exit;
            }
        }
    }

    fn store(&self, memory: GuestMemory) -> Option<Store> {
        x86_guest::decode(&self.registers, self.vmcb.get(Field::Rip), memory)
    }

    fn skip(&mut self, store: &Store) {
        self.vmcb.set(Field::Rip, self.vmcb.get(Field::Rip) + store.length);
    }

    fn shoot_down() {
        presence::shoot_down();
    }
}
