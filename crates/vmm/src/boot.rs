//! How a guest begins: its page tables, its code, and the registers of its vCPUs.
//!
//! The system slot, from page 0 on:
//!
//! | page | holds |
//! |---|---|
//! | 0 | nothing |
//! | 1 | the root |
//! | 2 | the table of the third level, of 512 GiB |
//! | 3 | the table that maps this slot |
//! | 4 on | a table for each GiB of RAM |
//! | then 16 | the program |
//!
//! Everything is mapped one to one by leaves of 2 MiB, this slot for reading only. A and D are set
//! beforehand, so that processors write no table.

use crate::error::MemoryError;
use crate::program::{MOST, Program};
use crate::ram::{RAM_BASE, Ram};
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use vellum_memory::PAGE_SIZE;
use vellum_memory::guest::{Bytes, GuestAddress};

const ROOT: u64 = PAGE_SIZE;
const THIRD: u64 = 2 * PAGE_SIZE;
const LOW: u64 = 3 * PAGE_SIZE;
const HIGH: u64 = 4 * PAGE_SIZE;

const CODE_PAGES: u64 = MOST as u64 / PAGE_SIZE;
/// Bytes that a leaf, and that a table of leaves maps.
const LEAF: u64 = 2 << 20;
const TABLE: u64 = 1 << 30;

// Bits of an entry: Intel SDM, volume 3, 4.5.4.
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const HUGE: u64 = 1 << 7;

const LINK: u64 = PRESENT | WRITE | USER | ACCESSED;
const READ_ONLY: u64 = PRESENT | USER | ACCESSED | DIRTY | HUGE;
const READ_WRITE: u64 = READ_ONLY | WRITE;

/// Interrupts come to the host, and level 3 may use ports (IOPL 3).
const FLAGS: u64 = 0x3202;

/// Pages of the system slot of a machine with so many pages of RAM.
pub(crate) fn system_pages(ram: u64) -> u64 {
    HIGH / PAGE_SIZE + tables(ram) + CODE_PAGES
}

/// Tables of leaves for so many pages of RAM.
fn tables(ram: u64) -> u64 {
    (ram * PAGE_SIZE).div_ceil(TABLE)
}

/// Where the program is.
fn code(ram: u64) -> u64 {
    HIGH + tables(ram) * PAGE_SIZE
}

/// Writes the tables and the program.
pub(crate) fn write(ram: &Ram, program: &Program) -> Result<(), MemoryError> {
    let (pages, memory) = (ram.pages(), ram.memory());
    entry(ram, ROOT, 0, THIRD | LINK)?;
    entry(ram, THIRD, 0, LOW | LINK)?;
    for leaf in 0..(system_pages(pages) * PAGE_SIZE).div_ceil(LEAF) {
        entry(ram, LOW, leaf, (leaf * LEAF) | READ_ONLY)?;
    }
    let base = RAM_BASE.gpa().get();
    for table in 0..tables(pages) {
        entry(ram, THIRD, base / TABLE + table, (HIGH + table * PAGE_SIZE) | LINK)?;
    }
    for leaf in 0..(pages * PAGE_SIZE).div_ceil(LEAF) {
        entry(ram, HIGH, leaf, (base + leaf * LEAF) | READ_WRITE)?;
    }
    Ok(memory.write_slice(program.code(), GuestAddress(code(pages)))?)
}

fn entry(ram: &Ram, table: u64, at: u64, entry: u64) -> Result<(), MemoryError> {
    Ok(ram.memory().write_obj(entry, GuestAddress(table + at * 8))?)
}

/// What a guest is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    /// Pages of RAM.
    pub(crate) pages: u64,
    pub(crate) vcpus: u64,
    pub(crate) seed: u64,
    pub(crate) word: u64,
}

impl Parameters {
    /// The registers that a vCPU begins with.
    pub(crate) fn registers(&self, vcpu: u64) -> kvm_regs {
        kvm_regs {
            rip: code(self.pages),
            rflags: FLAGS,
            rdi: RAM_BASE.gpa().get(),
            rsi: self.pages,
            rdx: vcpu,
            rcx: self.vcpus,
            r8: self.seed,
            r9: self.word,
            ..Default::default()
        }
    }
}

/// A level of privilege.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// The guest's: every host runs it natively.
    Three,
    /// What a host without VMX and SVM interprets. To compare with.
    #[cfg(test)]
    Zero,
}

impl Level {
    const fn dpl(self) -> u8 {
        match self {
            Self::Three => 3,
            #[cfg(test)]
            Self::Zero => 0,
        }
    }
}

/// Long mode.
pub(crate) fn long_mode(sregs: &mut kvm_sregs, level: Level) {
    let dpl = level.dpl();
    let code = segment(0x30, 11, 1, dpl);
    let data = segment(0x28, 3, 0, dpl);
    (sregs.cs, sregs.ss, sregs.ds, sregs.es) = (code, data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.ldt.unusable = 1;
    // PG, AM, WP, NE, ET, MP, PE; OSXMMEXCPT, OSFXSR, PAE; NXE, LMA, LME, SCE.
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = ROOT;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd01;
}

fn segment(selector: u16, type_: u8, long: u8, dpl: u8) -> kvm_segment {
    kvm_segment {
        selector: selector | u16::from(dpl),
        type_,
        l: long,
        db: 1 - long,
        limit: u32::MAX,
        present: 1,
        dpl,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// The units of floating point as after a reset: all exceptions masked.
pub(crate) fn floating_point() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() }
}
