//! The guests' instructions, as bytes.
#![allow(unsafe_code)]

use super::Guest;
use super::plan::{HOT_LIMITS, HOT_PER_COLD, HOT_SHARE, STRETCHES};
use crate::port::Port;
use crate::ram::RESERVED_PAGES;
use core::arch::global_asm;

/// Odd constants, to spread numbers with: the golden ratio, and those of MurmurHash3's finalizer.
const KEY: i64 = 0x9e37_79b9_7f4a_7c15_u64.cast_signed();
const MIX: i64 = 0xff51_afd7_ed55_8ccd_u64.cast_signed();
const FINISH: i64 = 0xc4ce_b9fe_1a85_ec53_u64.cast_signed();

/// Bytes that are left alone at the beginning of RAM.
const RESERVED: u64 = RESERVED_PAGES << 12;
/// Selfcheck's diaries are in the reserved pages from this one on, a page a vCPU. It is odd, so that with
/// an even number of vCPUs a diary and the hot pages differ in the low bits, which choose the place in a
/// TLB.
const DIARIES: u64 = 191;

global_asm!(
    ".pushsection .rodata.vellum_guests, \"a\"",
    "vellum_guest_sequential:",
    include_str!("working_set.s"),
    include_str!("sequential.s"),
    "vellum_guest_random:",
    include_str!("working_set.s"),
    include_str!("random.s"),
    "vellum_guest_zipf:",
    include_str!("working_set.s"),
    include_str!("zipf.s"),
    "vellum_guest_idle:",
    include_str!("working_set.s"),
    include_str!("idle.s"),
    "vellum_guest_selfcheck:",
    include_str!("selfcheck.s"),
    "vellum_guests_end:",
    ".globl vellum_guest_sequential, vellum_guest_random, vellum_guest_zipf, vellum_guest_idle",
    ".globl vellum_guest_selfcheck, vellum_guests_end",
    ".popsection",
    reserved = const RESERVED,
    spread = const KEY,
    scatter = const MIX,
    key = const KEY,
    mix = const MIX,
    finish = const FINISH,
    hot_share = const HOT_SHARE,
    most_hot = const HOT_LIMITS.1,
    most_hot_each = const HOT_LIMITS.0,
    hot_per_cold = const HOT_PER_COLD,
    stretches = const STRETCHES,
    diaries = const DIARIES,
    progress = const Port::Progress as u8,
    console = const Port::Console as u8,
    rest = const Port::Rest as u8,
    end = const Port::End as u8,
);

unsafe extern "C" {
    static vellum_guest_sequential: u8;
    static vellum_guest_random: u8;
    static vellum_guest_zipf: u8;
    static vellum_guest_idle: u8;
    static vellum_guest_selfcheck: u8;
    static vellum_guests_end: u8;
}

/// A guest's instructions. They run wherever they are put.
pub(super) fn of(guest: Guest) -> &'static [u8] {
    let (first, end) = match guest {
        Guest::Sequential => (&raw const vellum_guest_sequential, &raw const vellum_guest_random),
        Guest::Random => (&raw const vellum_guest_random, &raw const vellum_guest_zipf),
        Guest::Zipf => (&raw const vellum_guest_zipf, &raw const vellum_guest_idle),
        Guest::Idle => (&raw const vellum_guest_idle, &raw const vellum_guest_selfcheck),
        Guest::Selfcheck => (&raw const vellum_guest_selfcheck, &raw const vellum_guests_end),
    };
    // SAFETY: the assembly above puts these bytes one after another, and nobody writes them.
    unsafe { core::slice::from_raw_parts(first, end.addr() - first.addr()) }
}
