//! What a VMCS says of host and guest before the first entry.

use crate::capabilities::Capability;
use crate::fields::Field;
use crate::instructions::{fs_and_gs_bases, gdt, idt, selectors, system_base};
use crate::vmcs::Vmcs;
use runtime::x86_64::{cr0, cr3, cr4};
use vellum_pte::Gpa;

/// Rights of segments, as a VMCS spells them (Intel SDM vol. 3C, table 25-2).
const CODE_64: u64 = 0xa09b;
const DATA: u64 = 0xc093;
const UNUSABLE: u64 = 1 << 16;
const BUSY_TASK: u64 = 0x8b;
const FLAT: u64 = 0xffff_ffff;
/// ES, CS, SS, DS, FS, GS, LDTR, TR: rights and limit.
const SEGMENTS: [(u64, u64); 8] = [
    (DATA, FLAT),
    (CODE_64, FLAT),
    (DATA, FLAT),
    (DATA, FLAT),
    (DATA, FLAT),
    (DATA, FLAT),
    (UNUSABLE, 0),
    (BUSY_TASK, 0x67),
];
/// Bases and limits that follow those of the segments: GDTR's and IDTR's.
const WITH_TABLES: u64 = 10;

const RFLAGS_RESERVED: u64 = 1 << 1;
const DR7_RESERVED: u64 = 1 << 10;
const PAGING: u64 = 1 << 31;
const WRITE_PROTECT: u64 = 1 << 16;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const NO_LINK: u64 = u64::MAX;

/// The host as it is: an exit brings it back. Its stack pointer and where it goes on are set at
/// each entry.
pub(crate) fn save_host(vmcs: &Vmcs) {
    vmcs.set(Field::HostCr0, cr0());
    vmcs.set(Field::HostCr3, cr3());
    vmcs.set(Field::HostCr4, cr4());
    let selectors = selectors();
    for (following, selector) in (0..).zip(selectors) {
        vmcs.set_following(Field::HostSelectors, following, u64::from(selector));
    }
    let [fs, gs] = fs_and_gs_bases();
    let bases = [fs, gs, system_base(selectors[6]), gdt().base, idt().base];
    for (following, base) in (0..).zip(bases) {
        vmcs.set_following(Field::HostBases, following, base);
    }
    vmcs.set(Field::HostSysenterCs, 0);
    vmcs.set_following(Field::HostSysenter, 0, 0);
    vmcs.set_following(Field::HostSysenter, 1, 0);
}

/// A guest in 64-bit mode at privilege level 0, on its own page tables.
pub(crate) fn begin_guest(vmcs: &Vmcs, page_tables: Gpa) {
    set_segments(vmcs);
    let [cr0, cr4] = [Capability::Cr0Fixed, Capability::Cr4Fixed].map(Capability::read);
    let values = [
        (Field::GuestCr0, cr0 | PAGING | WRITE_PROTECT),
        (Field::GuestCr3, page_tables.get()),
        (Field::GuestCr4, cr4 | PHYSICAL_ADDRESS_EXTENSION),
        (Field::GuestDr7, DR7_RESERVED),
        (Field::GuestRsp, 0),
        (Field::GuestRip, 0),
        (Field::GuestRflags, RFLAGS_RESERVED),
        (Field::GuestPendingDebug, 0),
        (Field::GuestSysenterCs, 0),
        (Field::GuestInterruptibility, 0),
        (Field::GuestActivity, 0),
        (Field::LinkPointer, NO_LINK),
    ];
    for (field, value) in values {
        vmcs.set(field, value);
    }
    vmcs.set_following(Field::GuestSysenter, 0, 0);
    vmcs.set_following(Field::GuestSysenter, 1, 0);
}

fn set_segments(vmcs: &Vmcs) {
    for (following, (rights, limit)) in (0..).zip(SEGMENTS) {
        vmcs.set_following(Field::GuestSelectors, following, 0);
        vmcs.set_following(Field::GuestRights, following, rights);
        vmcs.set_following(Field::GuestLimits, following, limit);
    }
    for following in 0..WITH_TABLES {
        vmcs.set_following(Field::GuestBases, following, 0);
    }
    for following in SEGMENTS.len() as u64..WITH_TABLES {
        vmcs.set_following(Field::GuestLimits, following, 0);
    }
}
