//! How stage 2 is walked, and how what was cached of it is dropped.
#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::AtomicU64;
use runtime::aarch64::registers::{
    hpfar_el2, id_aa64mmfr0_el1, id_aa64mmfr1_el1, par_el1, set_par_el1, set_tpidr_el2,
    set_vtcr_el2, set_vttbr_el2,
};
use vellum_pte::{Gpa, Level, PAGE_SHIFT, Pfn, Root};

/// The number of the one VM in VTTBR_EL2.
pub(crate) const VMID: u64 = 1 << 48;

/// VTCR_EL2 (Arm ARM D17.2.157).
const SL0: u32 = 6;
const WRITE_BACK: u64 = 1 << 8 | 1 << 10;
const INNER_SHAREABLE: u64 = 3 << 12;
const PS: u32 = 16;
const HA: u64 = 1 << 21;
const HD: u64 = 1 << 22;
const RES1: u64 = 1 << 31;

/// ID_AA64MMFR1_EL1.HAFDBS: A is set by hardware, and D as well.
const DIRTY: u64 = 2;

/// Whether hardware sets A and D in leaves.
pub(crate) fn sets_dirty() -> bool {
    id_aa64mmfr1_el1() & 0xf >= DIRTY
}

/// The most bits that an intermediate physical address may have here: as many as a physical one (Arm
/// ARM D8.2.7).
pub(crate) fn most_bits() -> u32 {
    const BITS: [u32; 6] = [32, 36, 40, 42, 44, 48];
    BITS[output_size()]
}

/// ID_AA64MMFR0_EL1.PARange, and VTCR_EL2.PS. More than 48 bits needs other granules, or descriptors of
/// another layout.
fn output_size() -> usize {
    let range = id_aa64mmfr0_el1().to_le_bytes()[0] & 0xf;
    usize::from(range).min(5)
}

/// What hardware does to A and D.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flags {
    /// It sets them.
    Set,
    /// It faults, or leaves them alone.
    NotSet,
}

/// Has this CPU walk the tables under `root`, and sets all that it knew of others aside.
///
/// # Safety
/// They are tables, and lead to what a guest may reach.
pub(crate) unsafe fn walk(root: Pfn, shape: Root, flags: Flags) {
    // SAFETY: by the caller's promise.
    unsafe {
        set_vtcr_el2(control(shape, flags));
        set_vttbr_el2(VMID | root.address());
    }
    forget_here();
}

/// Has this CPU's walks end at once: tables that it knew may go, and its invalidations name the VM.
/// Silicon walks ahead of a guest that nobody enters. Whoever enters next loads everything: so this is
/// how a CPU begins, too, whose registers say nothing.
pub(crate) fn walk_nowhere() {
    let root = Pfn::of_address(NOWHERE.0.as_ptr().addr() as u64);
    // SAFETY: nothing is mapped there, and no vCPU is at address 0.
    unsafe {
        walk(root, NOWHERE_SHAPE, Flags::NotSet);
        set_tpidr_el2(0);
    }
}

/// A root without entries.
#[repr(align(4096))]
struct Nowhere([AtomicU64; 512]);

static NOWHERE: Nowhere = Nowhere([const { AtomicU64::new(0) }; 512]);
const NOWHERE_SHAPE: Root = Root { level: Level::L3, tables: 1 };

/// VTCR_EL2 for roots of that shape.
fn control(shape: Root, flags: Flags) -> u64 {
    let hardware = match flags {
        Flags::Set => HA | HD,
        Flags::NotSet => 0,
    };
    (64 - u64::from(address_bits(shape)))
        | first_level(shape.level) << SL0
        | WRITE_BACK
        | INNER_SHAREABLE
        | (output_size() as u64) << PS
        | hardware
        | RES1
}

/// How many bits of address the roots translate. A single root at the highest level is as good for
/// fewer as for 48, and a processor takes no more than it has. What the VM's own limit leaves out has
/// no slot.
fn address_bits(shape: Root) -> u32 {
    let levels = u32::from(shape.level.get());
    let bits = PAGE_SHIFT + 9 * levels + shape.tables.ilog2();
    if shape.level == Level::L4 { bits.min(most_bits()) } else { bits }
}

/// SL0: where walks begin (table D8-12). The library counts levels from the leaves, from 1.
fn first_level(level: Level) -> u64 {
    u64::from(level.get()) - 2
}

/// Makes every CPU forget this VM's translations, those of both stages: on all CPUs at once, without
/// interrupts.
pub(crate) fn shoot_down() {
    // SAFETY: dropping what is cached changes nothing else.
    unsafe { asm!("dsb ishst", "tlbi vmalls12e1is", "dsb ish", "isb", options(nostack)) };
}

/// The same on this CPU alone, of the VM that it was given last.
pub(crate) fn forget_here() {
    // SAFETY: as above.
    unsafe { asm!("isb", "dsb nshst", "tlbi vmalls12e1", "dsb nsh", "isb", options(nostack)) };
}

/// Makes what was written to a table visible to every walker.
pub(crate) fn publish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack)) };
}

/// Makes this CPU forget what it holds for `gpa`: of stage 2 by its address, and of both stages
/// together wholly, since nobody knows by which virtual address it got there.
pub(crate) fn forget_address(gpa: Gpa) {
    let page = gpa.get() >> PAGE_SHIFT;
    // SAFETY: as above.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi ipas2e1, {page}",
            "dsb nsh",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            page = in(reg) page,
            options(nostack),
        );
    };
}

/// The page that HPFAR_EL2 names.
pub(crate) fn faulting_page() -> Gpa {
    Gpa::new((hpfar_el2() & 0xfff_ffff_fff0) << 8)
}

/// Where stage 1 of the guest that was just left takes `address`, or `None` if it does not any more.
/// HPFAR_EL2 is unknown after a permission fault (Arm ARM D17.2.63).
pub(crate) fn translate(address: u64) -> Option<Gpa> {
    let before = par_el1();
    // SAFETY: PAR_EL1 alone changes, and is put back.
    let result = unsafe {
        asm!("at s1e1r, {}", "isb", in(reg) address, options(nostack));
        let result = par_el1();
        set_par_el1(before);
        result
    };
    (result & 1 == 0).then(|| Gpa::new((result & 0xf_ffff_ffff_f000) | address & 0xfff))
}
