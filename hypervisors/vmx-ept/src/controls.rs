//! What makes the guest exit, and which tables the processor walks.

use crate::capabilities::{Capability, ENABLE_EPT, ENABLE_PAGE_LOG, ENABLE_SUB_PAGES};
use crate::fields::Field;
use crate::vmcs::Vmcs;
use vm::Tables;

/// Pin-based controls: a non-maskable interrupt exits. It is how another CPU ends the guest's run.
const EXIT_ON_NMI: u64 = 1 << 3;
/// Processor-based controls: HLT and port accesses exit, and there are secondary ones.
const EXIT_ON_HLT: u64 = 1 << 7;
const EXIT_ON_PORTS: u64 = 1 << 24;
const SECONDARY: u64 = 1 << 31;
/// The host is in 64-bit mode after an exit.
const HOST_64: u64 = 1 << 9;
/// The guest is in 64-bit mode after an entry. Its EFER is the host's but for that.
const GUEST_64: u64 = 1 << 9;

/// EPTP: tables in write-back memory, walked in four levels, and whether A and D are set.
const WRITE_BACK: u64 = 6;
const ACCESSED_DIRTY: u64 = 1 << 6;

/// Everything that stays as it is. Interrupts are off, and each exception of the guest exits: it
/// has no handlers.
pub(crate) fn set_fixed(vmcs: &Vmcs) {
    let processor = SECONDARY | EXIT_ON_HLT | EXIT_ON_PORTS;
    let values = [
        (Field::PinControls, Capability::TruePin.controls(EXIT_ON_NMI)),
        (Field::ProcessorControls, Capability::TrueProcessor.controls(processor)),
        (Field::ExitControls, Capability::TrueExit.controls(HOST_64)),
        (Field::EntryControls, Capability::TrueEntry.controls(GUEST_64)),
        (Field::ExceptionBitmap, 0xffff_ffff),
        (Field::PageFaultMask, 0),
        (Field::PageFaultMatch, 0),
        (Field::Cr3TargetCount, 0),
        (Field::ExitStoreCount, 0),
        (Field::ExitLoadCount, 0),
        (Field::EntryLoadCount, 0),
        (Field::EntryInterruption, 0),
        (Field::Cr0Mask, 0),
        (Field::Cr4Mask, 0),
    ];
    for (field, value) in values {
        vmcs.set(field, value);
    }
}

/// The tables, and what the processor does beside walking them.
pub(crate) fn set_tables(vmcs: &Vmcs, tables: Tables, page_log: u64) {
    let walk = u64::from(tables.shape.level.get() - 1) << 3;
    let accessed_dirty = if tables.accessed_dirty { ACCESSED_DIRTY } else { 0 };
    vmcs.set(Field::EptPointer, tables.root.address() | walk | WRITE_BACK | accessed_dirty);
    let mut secondary = ENABLE_EPT;
    if tables.page_log {
        vmcs.set(Field::PageLogAddress, page_log);
        secondary |= ENABLE_PAGE_LOG;
    }
    if let Some(root) = tables.sub_pages {
        vmcs.set(Field::SubPagePointer, root.address());
        secondary |= ENABLE_SUB_PAGES;
    }
    vmcs.set(Field::SecondaryControls, Capability::Secondary.controls(secondary));
}
