//! A vCPU on VMX.
#![allow(unsafe_code)]

use crate::entry::{Entry, NotEntered};
use crate::fields::Field;
use crate::instructions::invept_all;
use crate::vmcs::Vmcs;
use crate::{capabilities, controls, entry, exit, operation, page_log, state};
use vellum_pte::{Ept, Gpa};
use vm::{Exit, Features, GuestMemory, Processor, Store, Tables, Work};
use x86_guest::walks::OwnTables;
use x86_guest::{Hypercall, Registers};

/// A guest of this CPU's.
pub(crate) struct Vmx {
    vmcs: Vmcs,
    registers: Registers,
    entry: Entry,
    tables: Tables,
}

impl Vmx {
    fn enter_once(&mut self) {
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
        self.vmcs.load();
        if self.tables.page_log {
            page_log::resume(&self.vmcs);
        }
        self.enter_once();
        if self.tables.page_log {
            page_log::suspend(&self.vmcs);
        }
        exit::decode(&self.vmcs, self.registers.loaded())
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

    /// There is one CPU, and it is here: the guest does not run meanwhile. Bochs forgets all of the
    /// guest's translations at each entry anyway, so what this is for cannot be shown on it.
    fn shoot_down() {
        invept_all().expect("a processor in VMX operation");
    }

    fn drain_log(log: &mut dyn FnMut(u64)) {
        page_log::drain(log);
    }
}
