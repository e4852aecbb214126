//! The instructions of VMX (Intel SDM vol. 3C, chapter 31), and the registers around them.
#![allow(unsafe_code)]

use core::arch::asm;
use runtime::x86_64::read_msr;

/// The instruction was refused. Why, a VMCS says, if there is a current one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused;

/// Refused where the instruction has set CF or ZF.
const fn unless(failed: u8) -> Result<(), Refused> {
    if failed == 0 { Ok(()) } else { Err(Refused) }
}

/// An instruction with the physical address of a region as its operand.
macro_rules! on_region {
    ($name:ident, $mnemonic:literal, $meaning:literal, $promise:literal) => {
        #[doc = $meaning]
        ///
        /// # Safety
        #[doc = $promise]
        pub(crate) unsafe fn $name(region: u64) -> Result<(), Refused> {
            let failed: u8;
            // SAFETY: by the caller's promise.
            unsafe {
                asm!(concat!($mnemonic, " [{}]"), "setna {}", in(reg) &raw const region, out(reg_byte) failed);
            }
            unless(failed)
        }
    };
}

on_region!(
    vmxon,
    "vmxon",
    "Enters VMX operation.",
    "The region is a page of nobody else's that begins with the revision; CR0, CR4 and \
     IA32_FEATURE_CONTROL allow it."
);
on_region!(
    vmclear,
    "vmclear",
    "Takes a VMCS out of the processor, to be launched next time.",
    "The processor is in VMX operation; the region is a VMCS of this CPU's, or a page that becomes one."
);
on_region!(
    vmptrld,
    "vmptrld",
    "Makes a VMCS the current one.",
    "The processor is in VMX operation; the region was cleared, and belongs to this CPU until it is again."
);

/// Leaves VMX operation.
///
/// # Safety
/// No VMCS is this CPU's any more.
pub(crate) unsafe fn vmxoff() -> Result<(), Refused> {
    let failed: u8;
    // SAFETY: by the caller's promise.
    unsafe { asm!("vmxoff", "setna {}", out(reg_byte) failed) }
    unless(failed)
}

/// Lets non-maskable interrupts come again after one that has ended a guest's run: its handler's
/// IRET does.
pub(crate) fn take_nmi() {
    // SAFETY: the handler of vector 2 does nothing but return, on a stack of its own.
    unsafe { asm!("int 2") }
}

/// Reads a field of the current VMCS.
pub(crate) fn vmread(field: u64) -> Result<u64, Refused> {
    let (value, failed): (u64, u8);
    // SAFETY: touches the current VMCS only, and is refused where there is none. Outside of VMX
    // operation it is an exception, which ends the program.
    unsafe {
        asm!("vmread {}, {}", "setna {}", out(reg) value, in(reg) field, out(reg_byte) failed,
            options(nostack));
    }
    unless(failed).map(|()| value)
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// What the field names or switches on is right by the next entry, which is what reads it.
pub(crate) unsafe fn vmwrite(field: u64, value: u64) -> Result<(), Refused> {
    let failed: u8;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!("vmwrite {}, {}", "setna {}", in(reg) field, in(reg) value, out(reg_byte) failed,
            options(nostack));
    }
    unless(failed)
}

/// Makes this CPU forget what it has cached of all EPT tables: INVEPT, type 2.
pub(crate) fn invept_all() -> Result<(), Refused> {
    const ALL_CONTEXTS: u64 = 2;
    let descriptor = [0_u64; 2];
    let failed: u8;
    // SAFETY: forgetting translations is always allowed.
    unsafe {
        asm!("invept {}, [{}]", "setna {}", in(reg) ALL_CONTEXTS, in(reg) &raw const descriptor,
            out(reg_byte) failed);
    }
    unless(failed)
}

/// Sets CR0.
///
/// # Safety
/// Nothing that runs depends on what is switched off.
pub(crate) unsafe fn set_cr0(value: u64) {
    // SAFETY: by the caller's promise.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack)) }
}

/// A table of descriptors, as SGDT and SIDT give it.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
pub(crate) struct TablePointer {
    limit: u16,
    pub(crate) base: u64,
}

/// The table of segment descriptors.
pub(crate) fn gdt() -> TablePointer {
    let mut pointer = TablePointer::default();
    // SAFETY: writes ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut pointer, options(nostack)) }
    pointer
}

/// The table of interrupt gates.
pub(crate) fn idt() -> TablePointer {
    let mut pointer = TablePointer::default();
    // SAFETY: writes ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut pointer, options(nostack)) }
    pointer
}

/// The selectors that the host runs with, in the order of the VMCS: ES, CS, SS, DS, FS, GS, TR.
pub(crate) fn selectors() -> [u16; 7] {
    let mut all = [0_u16; 7];
    // SAFETY: reading selectors has no effect.
    unsafe {
        asm!("mov {0:x}, es", "mov {1:x}, cs", "mov {2:x}, ss", "mov {3:x}, ds", "mov {4:x}, fs",
            "mov {5:x}, gs", "str {6:x}", out(reg) all[0], out(reg) all[1], out(reg) all[2],
            out(reg) all[3], out(reg) all[4], out(reg) all[5], out(reg) all[6],
            options(nomem, nostack));
    }
    all
}

/// The bases of FS and GS, which no descriptor holds.
pub(crate) fn fs_and_gs_bases() -> [u64; 2] {
    const FS_BASE: u32 = 0xc000_0100;
    const GS_BASE: u32 = 0xc000_0101;
    // SAFETY: every 64-bit processor has the two registers.
    [FS_BASE, GS_BASE].map(|register| unsafe { read_msr(register) })
}

/// The base of the segment of a system descriptor, which has 16 bytes.
pub(crate) fn system_base(selector: u16) -> u64 {
    let descriptor = (gdt().base + u64::from(selector)) as *const u64;
    // SAFETY: the selector is one that the processor has loaded from this very table.
    let [low, high] = unsafe { descriptor.cast::<[u64; 2]>().read_unaligned() };
    low >> 16 & 0xff_ffff | (low >> 56) << 24 | high << 32
}
