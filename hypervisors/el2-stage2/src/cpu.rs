//! A vCPU at EL2.
#![allow(unsafe_code)]

use crate::entry::{Registers, Vector};
use crate::guest;
use crate::stage2::{self, Flags};
use crate::syndrome::{Class, Refusal, Source, Syndrome};
use alloc::boxed::Box;
use runtime::aarch64::registers as sys;
use vellum_mmu::SubPageHardware;
use vellum_pte::{Gpa, Stage2};
use vm::{Exit, Features, GuestMemory, Processor, Store, Tables, Work};

/// HCR_EL2: stage 2 is on, EL1 has 64 bits.
const STAGE_2: u64 = 1 << 0 | 1 << 31;
/// HCR_EL2.DC: while the guest has no MMU of its own, its memory is normal and cached, as the
/// hypervisor's view of it is.
const DEFAULT_CACHEABLE: u64 = 1 << 12;

/// SCTLR_EL1 with what is reserved set, MMU and caches off.
const SCTLR_OFF: u64 = 0x30d0_0800;
/// SCTLR_EL1.{M, C, I}: MMU and caches on.
const SCTLR_ON: u64 = 1 << 0 | 1 << 2 | 1 << 12;

const INSTRUCTION_BYTES: u64 = 4;

/// A guest's registers, and the tables it is under.
pub(crate) struct El2 {
    registers: Box<Registers>,
    stage1: Stage1,
    mmu: GuestMmu,
    tables: Tables,
    /// What it left for, if that was an abort.
    abort: Option<Abort>,
}

/// Who translates the guest's own addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GuestMmu {
    /// Nobody: they are guest-physical.
    None,
    /// The guest, by tables of its own.
    Own,
}

#[derive(Clone, Copy)]
struct Abort {
    syndrome: Syndrome,
    gpa: Gpa,
}

/// The system registers of EL1 that these guests use.
pub(crate) struct Stage1 {
    sctlr: u64,
    tcr: u64,
    ttbr0: u64,
    mair: u64,
    vbar: u64,
}

impl Stage1 {
    const fn off() -> Self {
        Self { sctlr: SCTLR_OFF, tcr: 0, ttbr0: 0, mair: 0, vbar: guest::VECTORS }
    }

    /// MMU and caches on, with tables at `root`.
    pub(crate) const fn on(tcr: u64, root: Gpa, mair: u64) -> Self {
        let sctlr = SCTLR_OFF | SCTLR_ON;
        Self { sctlr, tcr, ttbr0: root.get(), mair, vbar: guest::VECTORS }
    }

    fn save() -> Self {
        Self {
            sctlr: sys::sctlr_el1(),
            tcr: sys::tcr_el1(),
            ttbr0: sys::ttbr0_el1(),
            mair: sys::mair_el1(),
            vbar: sys::vbar_el1(),
        }
    }

    fn restore(&self) {
        // SAFETY: they concern EL1 alone, which is confined by stage 2.
        unsafe {
            sys::set_sctlr_el1(self.sctlr);
            sys::set_tcr_el1(self.tcr);
            sys::set_ttbr0_el1(self.ttbr0);
            sys::set_mair_el1(self.mair);
            sys::set_vbar_el1(self.vbar);
        }
    }
}

impl El2 {
    /// Has the guest switch its MMU on, as `stage1` says.
    pub(crate) fn begin_with_own_tables(&mut self, stage1: &Stage1) {
        self.mmu = GuestMmu::Own;
        self.leave();
        let Stage1 { sctlr, tcr, ttbr0, mair, .. } = *stage1;
        self.registers.x[..4].copy_from_slice(&[tcr, ttbr0, mair, sctlr]);
        self.registers.pc = guest::OWN_TABLES;
    }

    /// Has the guest store `value` in every width, from `first` on.
    pub(crate) fn begin_widths(&mut self, first: Gpa, value: u64) {
        (self.registers.x[1], self.registers.x[4]) = (first.get(), value);
        self.registers.pc = guest::WIDTHS;
    }

    /// Whether this vCPU is the last that this CPU entered.
    fn is_here(&self) -> bool {
        sys::tpidr_el2() == (&raw const *self.registers).addr() as u64
    }

    /// Has the next entry load everything.
    fn leave(&self) {
        if self.is_here() {
            // SAFETY: no vCPU is at address 0.
            unsafe { sys::set_tpidr_el2(0) };
        }
    }

    /// Loads what is the vCPU's own. Another one's translations may have the same names.
    fn come_here(&self) {
        let cached = if self.mmu == GuestMmu::None { DEFAULT_CACHEABLE } else { 0 };
        let flags = if self.tables.accessed_dirty { Flags::Set } else { Flags::NotSet };
        self.stage1.restore();
        // SAFETY: the library's tables lead to what `Host` resolved.
        unsafe {
            sys::set_hcr_el2(STAGE_2 | cached);
            stage2::walk(self.tables.root, self.tables.shape, flags);
        }
    }

    /// What the rest of the hypervisor hears of an exit: `None` where the guest just goes on.
    fn exit(&mut self) -> Option<Exit> {
        let syndrome = Syndrome(sys::esr_el2());
        match syndrome.class() {
            Class::Call(guest::BROKEN) => Some(Exit::Other(sys::esr_el1())),
            Class::Call(_) => Some(Exit::Done(self.registers.x[guest::LOADED])),
            Class::Abort(access, refusal) => {
                let gpa = address(syndrome, refusal)?;
                self.abort = Some(Abort { syndrome, gpa });
                Some(Exit::Fault { gpa, access })
            }
            Class::Other => Some(Exit::Other(syndrome.0)),
        }
    }
}

/// Where the access went that was refused. Of a walk only the page is known. `None` if the guest's
/// tables have changed since: it tries again.
fn address(syndrome: Syndrome, refusal: Refusal) -> Option<Gpa> {
    let (page, address) = (stage2::faulting_page(), sys::far_el2());
    match refusal {
        _ if syndrome.on_a_walk() => Some(page),
        Refusal::Permission => stage2::translate(address),
        _ => Some(Gpa::new(page.get() | address & 0xfff)),
    }
}

/// The tables go after this, and whoever is made at the same place is not to be taken for this one.
impl Drop for El2 {
    fn drop(&mut self) {
        if self.is_here() {
            stage2::walk_nowhere();
        }
    }
}

impl Processor for El2 {
    type Format = Stage2;

    fn features() -> Features {
        Features {
            accessed_dirty: stage2::sets_dirty(),
            page_log: false,
            sub_pages: SubPageHardware::Absent,
        }
    }

    fn lay_out(memory: GuestMemory) {
        guest::lay_out(memory);
    }

    fn new(tables: Tables) -> Self {
        Self {
            registers: Box::new(Registers::at_start()),
            stage1: Stage1::off(),
            mmu: GuestMmu::None,
            tables,
            abort: None,
        }
    }

    fn load(&mut self, tables: Tables) {
        self.tables = tables;
        self.leave();
    }

    fn begin(&mut self, work: Work) {
        let first = guest::registers(work);
        self.registers.x[..first.len()].copy_from_slice(&first);
        self.registers.pc = guest::WORK;
    }

    fn enter(&mut self) -> Exit {
        loop {
            if !self.is_here() {
                self.come_here();
            }
            // SAFETY: `come_here` has loaded the library's tables.
            let vector = unsafe { self.registers.enter() };
            self.stage1 = Stage1::save();
            self.abort = None;
            match vector {
                Vector::Synchronous => match self.exit() {
                    Some(exit) => return exit,
                    None => continue,
                },
                Vector::Other(place) => return Exit::Other(place),
            }
        }
    }

    /// Hardware has decoded it. A store that straddles two pages is told with the address of its part
    /// that faulted: these guests store aligned.
    fn store(&self, _: GuestMemory) -> Option<Store> {
        let Abort { syndrome, gpa } = self.abort?;
        let (source, width) = syndrome.store()?;
        let value = match source {
            Source::Register(number) => self.registers.x[number],
            Source::Zero => 0,
        };
        Some(Store { gpa, value, width, length: INSTRUCTION_BYTES })
    }

    fn skip(&mut self, store: &Store) {
        self.registers.pc += store.length;
    }

    fn publish() {
        stage2::publish();
    }

    fn shoot_down() {
        stage2::shoot_down();
    }

    fn flush_local(gpa: Gpa) {
        stage2::forget_address(gpa);
    }
}
