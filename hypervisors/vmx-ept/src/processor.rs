//! A vCPU on VMX.
#![allow(unsafe_code)]

use crate::entry::{Entry, NotEntered};
use crate::fields::Field;
use crate::instructions::take_nmi;
use crate::vmcs::Vmcs;
use crate::{capabilities, controls, entry, exit, operation, page_log, presence, state};
use vellum_pte::{Ept, Gpa};
use vm::{Exit, Features, GuestMemory, Processor, Store, Tables, Work};
use x86_guest::walks::OwnTables;
use x86_guest::{Hypercall, Registers};

/// A guest of the CPU that made it.
pub(crate) struct Vmx {
    vmcs: Vmcs,
    registers: Registers,
    entry: Entry,
    tables: Tables,
}

impl Vmx {
    /// One entry: `None` if another CPU has ended it.
    fn enter_once(&mut self) -> Option<Exit> {
        self.vmcs.load();
        if self.tables.page_log {
            page_log::resume(&self.vmcs);
        }
        presence::enter();
        self.cross();
        presence::leave();
        if self.tables.page_log {
            page_log::suspend(&self.vmcs);
        }
        if exit::is_kick(&self.vmcs) {
            self.forget_kick();
            return None;
        }
        Some(exit::decode(&self.vmcs, self.registers.loaded()))
    }

    /// The next one is to be heard here, and in the guest: its state, as Bochs saves it, says that it
    /// blocks them since, where the manual has them blocked after the exit only (Intel SDM vol. 3C,
    /// 28.1).
    fn forget_kick(&mut self) {
        take_nmi();
        self.vmcs.set(Field::GuestInterruptibility, 0);
    }

    fn cross(&mut self) {
        // SAFETY: `new` has set every field, and the tables are the library's.
        let entered = unsafe { entry::enter(&mut self.registers, self.entry) };
        entered.unwrap_or_else(|NotEntered| {
            panic!("no entry, instruction error {}", self.vmcs.get(Field::InstructionError))
        });
        self.entry = Entry::Resume;
    }
}

impl OwnTables for Vmx {
    fn set_page_tables(&mut self, root: Gpa) {
        self.vmcs.load();
        self.vmcs.set(Field::GuestCr3, root.get());
    }
}

impl Processor for Vmx {
    type Format = Ept;

    fn features() -> Features {
        capabilities::features()
    }

    fn lay_out(memory: GuestMemory) {
        x86_guest::lay_out(memory, Hypercall::Vmcall);
    }

    fn new(tables: Tables) -> Self {
        operation::enter();
        let vmcs = Vmcs::new(operation::revision());
        vmcs.load();
        controls::set_fixed(&vmcs);
        controls::set_tables(&vmcs, tables, page_log::address());
        state::save_host(&vmcs);
        state::begin_guest(&vmcs, x86_guest::ROOT);
        Self { vmcs, registers: Registers::default(), entry: Entry::Launch, tables }
    }

    fn load(&mut self, tables: Tables) {
        self.vmcs.load();
        self.tables = tables;
        controls::set_tables(&self.vmcs, tables, page_log::address());
    }

    fn begin(&mut self, work: Work) {
        self.vmcs.load();
        self.registers = Registers::for_work(work);
        self.vmcs.set(Field::GuestRip, x86_guest::ENTRY);
    }

    fn enter(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.enter_once() {
                return exit;
            }
        }
    }

    /// The length is the decoder's: that in the VMCS is undefined after an EPT violation (Intel SDM
    /// vol. 3C, 28.2.5).
    fn store(&self, memory: GuestMemory) -> Option<Store> {
        self.vmcs.load();
        x86_guest::decode(&self.registers, self.vmcs.get(Field::GuestRip), memory)
    }

    fn skip(&mut self, store: &Store) {
        self.vmcs.load();
        let rip = self.vmcs.get(Field::GuestRip);
        self.vmcs.set(Field::GuestRip, rip + store.length);
    }

    /// Bochs forgets all of a guest's translations at each entry, so it takes a guest on another CPU,
    /// that does not leave by itself, to see what this is for.
    fn shoot_down() {
        presence::shoot_down();
    }

    fn drain_log(log: &mut dyn FnMut(u64)) {
        page_log::drain(log);
    }

    fn drain_all_logs(log: &mut dyn FnMut(u64)) {
        page_log::drain_all(log);
    }
}
