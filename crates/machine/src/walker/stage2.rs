//! Arm's stage-2 walker: Arm ARM (DDI 0487) D8, VMSAv8-64 with the 4 KiB granule and 48-bit output
//! addresses, for a guest at EL1. Arm counts levels down to 3; here 1 is the last.
//!
//! VTCR_EL2.{TG0 = 4 KiB, IRGN0 = ORGN0 = write-back, SH0 = inner shareable}, T0SZ and SL0 by the
//! [`Regime`]; HCR_EL2.FWB = 0; no FEAT_LPA2, FEAT_BBM, FEAT_XS, FEAT_HAFT.

use super::{AccessFlags, AfterFault, Link, Permissions, Regime, Step, TwoSizes, Walk};
use super::{INDEX_BITS, PAGE_SHIFT};
use vellum_pte::Pfn;

const VALID: u64 = 1 << 0;
/// A table above the last level, a page at the last one; a block where it is clear.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// MemAttr: 0b1111 is normal memory, write-back inside and outside.
const MEMORY_TYPE: u64 = 0b1111 << 2;
const WRITE_BACK: u64 = 0b1111 << 2;
/// S2AP.
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
/// SH: 0b11 is inner shareable.
const SHAREABILITY: u64 = 0b11 << 8;
const INNER_SHAREABLE: u64 = 0b11 << 8;
/// AF.
const ACCESSED: u64 = 1 << 10;
/// DBM: where it is set, `S2AP[1]` is the dirty state and hardware may set it.
const MODIFIER: u64 = 1 << 51;
/// `XN[1]` with `XN[0]` clear: no execution. `XN[0]` alone: none at EL1.
const NO_EXECUTE: u64 = 0b11 << 53;
const EXECUTABLE: [u64; 2] = [0b00 << 53, 0b11 << 53];
/// Output address, and table address.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// RES0 without FEAT_LPA2: the address bits above 48 that are nothing else.
const ADDRESS_TOO_HIGH: u64 = 0b111 << 48;

/// Arm stage 2.
#[derive(Clone, Copy, Debug)]
pub struct Stage2Walker;

impl Walk for Stage2Walker {
    // D8.5: bit 10 of the block or page descriptor. Tables have none (that is FEAT_HAFT).
    const ACCESSED: u64 = ACCESSED;
    const TABLE_ACCESSED: u64 = 0;
    // D8.5.5: with DBM set, a store sets S2AP[1].
    const DIRTY: u64 = WRITE;
    // D8.3.1: there is nothing to carry.
    const CACHED_ENTRIES_CARRY_PERMISSIONS: bool = true;
    // D8.16.1: an entry that gives no translation, address size or access flag fault may be cached,
    // so one that refuses an access may; nothing but TLB maintenance is sure to remove it.
    const AFTER_FAULT: AfterFault = AfterFault::Everything;
    // D8.16.1: without break-before-make a change of size may raise a TLB conflict abort, or use
    // an amalgamation of both entries.
    const TWO_SIZES: TwoSizes = TwoSizes::Conflict;

    /// D8.2.7, and `S2InconsistentSL` of the pseudocode: the address has at least one bit more than
    /// the levels below the root translate, and at most sixteen root tables are side by side.
    fn accept(regime: Regime) -> Option<Regime> {
        let below = PAGE_SHIFT + INDEX_BITS * (u32::from(regime.level).checked_sub(1)?);
        let most = (below + INDEX_BITS + 4).min(48);
        let level = (2..=4).contains(&regime.level);
        (level && (below + 1..=most).contains(&regime.address_bits)).then_some(regime)
    }

    /// D8.3.1.
    #[inline]
    fn read(raw: u64, level: u8, flags: AccessFlags) -> Step {
        if raw & VALID == 0 {
            return Step::NotPresent;
        }
        match (raw & TABLE_OR_PAGE != 0, level) {
            (true, 2..) => table(raw),
            (true, _) | (false, 2 | 3) => page(raw, level, flags),
            // Reserved: treated as invalid. At our level 4 a block needs FEAT_LPA2.
            (false, _) => Step::NotPresent,
        }
    }
}

/// D8.3.1: at stage 2, bits 63:59 of a table descriptor are reserved.
#[inline]
fn table(raw: u64) -> Step {
    if raw & (ADDRESS_TOO_HIGH | 0b1_1111 << 59) != 0 {
        return Step::Misconfigured;
    }
    Step::Table(Link { frame: Pfn::of_address(raw & ADDRESS), permits: Permissions::ALL })
}

#[inline]
fn page(raw: u64, level: u8, flags: AccessFlags) -> Step {
    if raw & reserved(level) != 0 || !is_cached_memory(raw) {
        return Step::Misconfigured;
    }
    // Found in the walk, so before permissions (`S2Walk`, `S2Translate` of the pseudocode).
    if flags == AccessFlags::BySoftware && raw & ACCESSED == 0 {
        return Step::NotAccessed;
    }
    Step::Page(Link { frame: Pfn::of_address(raw & ADDRESS), permits: permits(raw, flags) })
}

/// Bit 11, the high address bits, and those inside a block (bit 16, nT, is FEAT_BBM).
#[inline]
fn reserved(level: u8) -> u64 {
    let inside = match level {
        3 => 0x3fff_f000,
        2 => 0x001f_f000,
        _ => 0,
    };
    ADDRESS_TOO_HIGH | 1 << 11 | inside
}

/// Any other kind of memory would do for hardware. Guest RAM is this kind, so the machine stops.
#[inline]
fn is_cached_memory(raw: u64) -> bool {
    raw & MEMORY_TYPE == WRITE_BACK && raw & SHAREABILITY == INNER_SHAREABLE
}

/// D8.3.2 and D8.5.5. Fetches need no read permission.
#[inline]
fn permits(raw: u64, flags: AccessFlags) -> Permissions {
    let stores = match flags {
        AccessFlags::ByHardware => WRITE | MODIFIER,
        AccessFlags::BySoftware => WRITE,
    };
    let data =
        Permissions::NONE.with(Permissions::READ, raw, READ).with(Permissions::WRITE, raw, stores);
    let execute = EXECUTABLE.contains(&(raw & NO_EXECUTE));
    if execute { data.or(Permissions::EXECUTE) } else { data }
}
