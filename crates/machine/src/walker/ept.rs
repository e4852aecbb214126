//! Intel's walker: SDM vol. 3C, 29.3, with a page-walk length of 4.

use super::{ADDRESS, ADDRESS_TOO_HIGH, Link, Permissions, Step, Walk};
use super::{AccessFlags, AfterFault, PageLogging, Regime, TwoSizes};
use vellum_pte::Pfn;

const READ: u64 = 0b001;
const WRITE: u64 = 0b010;
const EXECUTE: u64 = 0b100;
/// An entry is present if any of bits 2:0 is set (29.3.2).
const PRESENT: u64 = READ | WRITE | EXECUTE;
/// At levels 2 and 3: this entry maps a page and references no table (29.3.2).
const MAPS_A_PAGE: u64 = 1 << 7;

/// Intel EPT.
#[derive(Clone, Copy, Debug)]
pub struct EptWalker;

impl Walk for EptWalker {
    // SDM vol. 3C, 29.3.5: bit 8 of any entry used, bit 9 of the one that maps the page.
    const ACCESSED: u64 = 1 << 8;
    const TABLE_ACCESSED: u64 = 1 << 8;
    const DIRTY: u64 = 1 << 9;
    // SDM vol. 3C, 29.3.6.
    const PAGE_LOG: PageLogging = PageLogging::Present;
    // SDM vol. 3C, 29.3.4.1 and table 29-7: bit 61 of an entry that maps a 4 KiB page.
    const SUB_PAGE_WRITES: u64 = 1 << 61;
    // SDM vol. 3C, 29.4: a guest-physical paging-structure-cache entry holds the logical AND of
    // the access rights of all the entries that lead to it.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;

    // SDM vol. 3C, 29.4.3.1: an EPT violation invalidates what would translate the address.
    const AFTER_FAULT: AfterFault = AfterFault::Nothing;
    // SDM vol. 3A, 4.10.2.3: for addresses of both sizes either translation may be used.
    const TWO_SIZES: TwoSizes = TwoSizes::EitherServes;

    /// Four levels translate 48 bits, and EPTP bit 6 turns A and D on (25.6.11).
    fn accept(regime: Regime) -> Option<Regime> {
        (regime.level == 4).then_some(Regime { address_bits: 48, ..regime })
    }

    #[inline]
    fn read(raw: u64, level: u8, _: AccessFlags) -> Step {
        if raw & PRESENT == 0 {
            return Step::NotPresent;
        }
        if misconfigured(raw, level) {
            return Step::Misconfigured;
        }
        let link = Link { frame: Pfn::of_address(raw & ADDRESS), permits: permits(raw) };
        if maps_a_page(raw, level) { Step::Page(link) } else { Step::Table(link) }
    }
}

#[inline]
fn permits(raw: u64) -> Permissions {
    Permissions::NONE.with(Permissions::READ, raw, READ).with(Permissions::WRITE, raw, WRITE).with(
        Permissions::EXECUTE,
        raw,
        EXECUTE,
    )
}

/// Bit 7 means it at levels 2 and 3; it is reserved at level 4 and ignored at level 1.
#[inline]
fn maps_a_page(raw: u64, level: u8) -> bool {
    level == 1 || level < 4 && raw & MAPS_A_PAGE != 0
}

/// SDM vol. 3C, 29.3.3.1. Execute-only entries are supported (`IA32_VMX_EPT_VPID_CAP` bit 0).
#[inline]
fn misconfigured(raw: u64, level: u8) -> bool {
    let writable_not_readable = raw & (READ | WRITE) == WRITE;
    let page = maps_a_page(raw, level);
    let bad_type = page && matches!(raw >> 3 & 7, 2 | 3 | 7);
    writable_not_readable || bad_type || raw & reserved(level, page) != 0
}

/// The tables of entry formats in 29.3.2: bits 7:3 of what references a table (bit 7 tells the two apart below
/// level 4), the address bits inside a large page, and those beyond the physical address width.
#[inline]
fn reserved(level: u8, page: bool) -> u64 {
    let form = match (level, page) {
        (_, false) => 0b1111_1000,
        (3, true) => 0x3fff_f000,
        (2, true) => 0x001f_f000,
        (_, true) => 0,
    };
    ADDRESS_TOO_HIGH | form
}
