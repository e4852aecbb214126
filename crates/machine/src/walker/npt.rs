//! AMD's walker: APM vol. 2, 15.25, over the long-mode tables of 5.3. The host has `EFER.NXE` on.

use super::{ADDRESS, ADDRESS_TOO_HIGH, Link, Permissions, Step, Walk};
use super::{AccessFlags, AfterFault, Regime, TwoSizes};
use vellum_pte::Pfn;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// The page-size bit of levels 2 and 3.
const MAPS_A_PAGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// AMD nested paging.
#[derive(Clone, Copy, Debug)]
pub struct NptWalker;

impl Walk for NptWalker {
    // APM vol. 2, 5.4.1: bit 5 of any entry used, bit 6 of the one that maps the page.
    const ACCESSED: u64 = 1 << 5;
    const TABLE_ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    // APM vol. 2, 5.6 and 5.5: a page is writable only if every level says so, and an entry of a
    // page-walk cache stands for the walk that filled it, its protection included.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;

    // APM vol. 2, 5.5: a page fault invalidates what would translate the address.
    const AFTER_FAULT: AfterFault = AfterFault::Nothing;
    // APM vol. 2, 5.5 names no such case.
    const TWO_SIZES: TwoSizes = TwoSizes::EitherServes;

    /// Four levels translate 48 bits. A and D cannot be turned off.
    fn accept(regime: Regime) -> Option<Regime> {
        let told = regime.level == 4 && regime.flags == AccessFlags::ByHardware;
        told.then_some(Regime { address_bits: 48, ..regime })
    }

    #[inline]
    fn read(raw: u64, level: u8, _: AccessFlags) -> Step {
        if raw & PRESENT == 0 {
            return Step::NotPresent;
        }
        let page = maps_a_page(raw, level);
        if raw & reserved(level, page) != 0 {
            return Step::Misconfigured;
        }
        let link = Link { frame: frame(raw, level, page), permits: permits(raw) };
        if page { Step::Page(link) } else { Step::Table(link) }
    }
}

/// Every nested access is a user access (15.25.5): without the user bit nothing passes.
#[inline]
fn permits(raw: u64) -> Permissions {
    if raw & USER == 0 {
        return Permissions::NONE;
    }
    Permissions::READ.with(Permissions::WRITE, raw, WRITE).with(
        Permissions::EXECUTE,
        !raw,
        NO_EXECUTE,
    )
}

/// Bit 7 means it at levels 2 and 3; it must be zero at level 4 and is PAT at level 1.
#[inline]
fn maps_a_page(raw: u64, level: u8) -> bool {
    level == 1 || level < 4 && raw & MAPS_A_PAGE != 0
}

/// Bit 12 of a large page is PAT and no address.
#[inline]
fn frame(raw: u64, level: u8, page: bool) -> Pfn {
    let pat = if page && level > 1 { 1 << 12 } else { 0 };
    Pfn::of_address(raw & ADDRESS & !pat)
}

/// APM vol. 2, 5.3.3 to 5.3.5: bits 8:7 of level 4, the address bits inside a large page, and those
/// beyond the physical address width.
#[inline]
fn reserved(level: u8, page: bool) -> u64 {
    let form = match (level, page) {
        (4, _) => 0b1_1000_0000,
        (3, true) => 0x3fff_e000,
        (2, true) => 0x001f_e000,
        _ => 0,
    };
    ADDRESS_TOO_HIGH | form
}
