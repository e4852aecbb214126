//! The guest's one CPU: its registers, and the way into it and out of it.
#![allow(unsafe_code)]

use crate::exit::{Exit, Place};
use crate::registers;
use vellum_pte::{Pfn, Root};

core::arch::global_asm!(include_str!("switch.s"));

unsafe extern "C" {
    fn enter_guest(registers: *mut Registers);
}

/// What the guest leaves in registers that the hypervisor uses too. switch.s knows the layout.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Registers {
    general: [u64; 31],
    pc: u64,
    state: u64,
    fpcr: u64,
    fpsr: u64,
    place: u64,
    vectors: [u128; 32],
}
const _: () = assert!(core::mem::offset_of!(Registers, pc) == 248);
const _: () = assert!(core::mem::offset_of!(Registers, place) == 280);
const _: () = assert!(core::mem::offset_of!(Registers, vectors) == 288);

/// What the processor may do by itself in the second stage's leaves (Arm ARM D8.5, VTCR_EL2.HA and HD).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LeafUpdates {
    /// Nothing.
    None,
    /// Set the access flag, and where DBM allows it the permission to write: the D bit.
    AccessedAndDirty,
}

/// Where a CPU begins: for the first one, the kernel's entry and its device tree (Linux,
/// Documentation/arm64/booting.rst).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Start {
    /// The first instruction.
    pub(crate) entry: u64,
    /// What is in x0.
    pub(crate) argument: u64,
}

/// The guest on this CPU.
pub(crate) struct Guest {
    registers: Registers,
}

/// Exception level 1 with its own stack, all interrupts masked: how a kernel is entered.
const AT_THE_START: u64 = 0x3c5;

impl Guest {
    /// A CPU on the tables at `root`, about to begin as `start` says, MMU and caches off.
    pub(crate) fn new(start: Start, root: Pfn, shape: Root, updates: LeafUpdates) -> Self {
        second_stage(root, shape, updates);
        let mut general = [0; 31];
        general[0] = start.argument;
        let (pc, state) = (start.entry, AT_THE_START);
        let vectors = [0; 32];
        Self { registers: Registers { general, pc, state, fpcr: 0, fpsr: 0, place: 0, vectors } }
    }

    /// Runs the guest until something is for the hypervisor to see.
    pub(crate) fn enter(&mut self) -> Exit {
        // SAFETY: the second stage keeps the guest out of this program's memory, and switch.s keeps
        // this program's registers.
        unsafe { enter_guest(&raw mut self.registers) };
        Exit::of(Place::from_number(self.registers.place))
    }

    /// A general register; number 31 is the one that is zero.
    pub(crate) fn register(&self, number: usize) -> u64 {
        self.registers.general.get(number).copied().unwrap_or(0)
    }

    /// Sets a general register.
    pub(crate) fn set_register(&mut self, number: usize, value: u64) {
        if let Some(register) = self.registers.general.get_mut(number) {
            *register = value;
        }
    }

    /// Where it stands.
    pub(crate) fn pc(&self) -> u64 {
        self.registers.pc
    }

    /// Takes it past an instruction that was done in its place.
    pub(crate) fn skip(&mut self) {
        self.registers.pc += 4;
    }
}

/// HCR_EL2 (Arm ARM D19.2.48): VM, SWIO; TWI, TWE, TSC, TVM trap; RW; APK and API do not. Interrupts go
/// straight to the guest: IMO, FMO and AMO are clear.
const HYPERVISOR: u64 =
    1 | 1 << 1 | 1 << 13 | 1 << 14 | 1 << 19 | 1 << 26 | 1 << 31 | 1 << 40 | 1 << 41;
/// CPTR_EL2: what is reserved as one, without traps of floating point.
const NO_TRAPS: u64 = 0x32ff;
/// CNTHCTL_EL2: the physical counter and timer are the guest's as well.
const TIMERS: u64 = 3;
/// ICC_SRE_EL2: the interrupt controller is used through system registers, and the guest may say so.
const GIC_BY_REGISTERS: u64 = 0xf;
/// SCTLR_EL1 with MMU and caches off: what is reserved as one.
const MMU_OFF: u64 = 0x30d0_0800;
/// The VM's number in TLBs.
const VMID: u64 = 1 << 48;

fn second_stage(root: Pfn, shape: Root, updates: LeafUpdates) {
    // SAFETY: P, G: the root is the library's, and leads to what `Host` resolved; what else is said is
    // how its tables are walked, and that timers and interrupts are the guest's.
    unsafe {
        registers::set_vtcr_el2(control(shape, updates));
        registers::set_vttbr_el2(root.address() | VMID);
        registers::set_hcr_el2(HYPERVISOR);
        registers::set_cptr_el2(NO_TRAPS);
        registers::set_hstr_el2(0);
        registers::set_mdcr_el2(registers::pmcr_el0() >> 11 & 0x1f);
        registers::set_cnthctl_el2(TIMERS);
        registers::set_icc_sre_el2(GIC_BY_REGISTERS);
        registers::set_ich_hcr_el2(0);
    }
    registers::set_vpidr_el2(registers::midr_el1());
    registers::set_vmpidr_el2(registers::mpidr_el1());
    registers::set_sctlr_el1(MMU_OFF);
    crate::translations::forget_all();
}

/// VTCR_EL2 (Arm ARM D19.2.163): 4 KiB granule, walks inner shareable and write-back, 40 bits of
/// physical address, the root as the library says.
fn control(shape: Root, updates: LeafUpdates) -> u64 {
    const RESERVED: u64 = 1 << 31;
    const WALKS: u64 = 3 << 12 | 1 << 10 | 1 << 8;
    const PHYSICAL_40: u64 = 2 << 16;
    let levels = u64::from(shape.level.get());
    let bits = 12 + 9 * levels + u64::from(shape.tables.trailing_zeros());
    let start = (levels - 2) << 6;
    let updates = match updates {
        LeafUpdates::None => 0,
        LeafUpdates::AccessedAndDirty => 1 << 21 | 1 << 22,
    };
    RESERVED | WALKS | PHYSICAL_40 | updates | start | (64 - bits)
}

/// Waits as the guest does: until an interrupt is there for it.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: an instruction that only waits.
    unsafe { core::arch::asm!("wfi", options(nomem, nostack, preserves_flags)) };
}

/// Waits for less than that: an event, or nothing at all.
pub(crate) fn wait_for_event() {
    // SAFETY: as above.
    unsafe { core::arch::asm!("wfe", options(nomem, nostack, preserves_flags)) };
}
