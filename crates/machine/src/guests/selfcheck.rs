//! The guest that checks itself: whoever gives it back an older page, or changes one, is found.
//!
//! Page `i` of its working area belongs to hart `i % harts`, so that harts share page tables and
//! no two write one page. A page carries a *count* in its first word, and in a second word, whose
//! place moves with the count, a hash of count and page. A hart never writes a page without having
//! found in it, in both words, what it wrote last:
//!
//! - the **hot** pages are rewritten pass after pass: in pass k they must hold k - 1;
//! - the **cold** pages are swept slowly, one for every [`HOT_PER_COLD`] hot ones: those below the
//!   sweep's position hold its number, the others one less;
//! - in each pass a **stretch** of the cold pages is checked and not written, the next in the next
//!   pass, so that all of memory is checked again within [`passes_to_recheck_all`] passes.
//!
//! After each pass a hart notes the count in its **diary**, a reserved page of its own that nothing
//! else of it pushes out of a TLB: a page that is stored to through one translation for a long time.
//!
//! What it expects is in its registers only. Of a page it checks two words; bytes elsewhere in it
//! are for a digest to compare. The last quarter of RAM stays zero. Each finished pass is
//! reported as progress. A mismatch prints one line and shuts down with *system failure*.
//!
//! | register | besides those of `start` |
//! |---|---|
//! | `s3`, `s4` | hot and cold pages of this hart |
//! | `s5` | the count of the hot pages |
//! | `s6`, `s7` | the sweep's number and its position |
//! | `s8` | the position of the check |
//! | `s9` | hot pages written and not yet paid for by a cold one |
//! | `s11` | the bytes between two pages of this hart |
//! | `sp`, `gp` | constants of the hash |
//! | `a2`, `a3` | the page in hand: address, number |
//! | `a4`, `a5`, `a6` | what it must hold: count, place of the second word, key of the hash |
//! | `t4`, `t5`, `t6` | what it will hold: likewise |
//! | `tp` | pages left to do |

use super::RESERVED_PAGES;
use super::assembler::{Assembler, Label};
use super::start::{call, progress, start};
use crate::vcpu::Reg;

/// How many hot pages are written for one cold page: it bounds how fast memory is dirtied, so that
/// a migration finds a guest it can catch up with.
pub const HOT_PER_COLD: u64 = 1024;
/// The most hot pages that a hart, and that all harts together have.
const HOT_LIMITS: (u64, u64) = (2048, 8192);
/// One page in so many is hot, if the limits allow.
const HOT_SHARE: u32 = 5;
/// The cold pages are checked in about so many stretches.
const STRETCHES: u32 = 5;
/// Where messages are written: in the reserved pages, 256 bytes for each hart.
const MESSAGES: i64 = 512 << 10;
/// Diaries are in the reserved pages from this one on, a page a hart. It is odd, so that with an even
/// number of harts a hart's diary and its hot pages differ in the low bits, which choose the place
/// in a TLB.
const DIARIES: i64 = 191;

const KEY: i64 = 0x9e37_79b9_7f4a_7c15_u64.cast_signed();
const MIX: i64 = 0xff51_afd7_ed55_8ccd_u64.cast_signed();
const FINISH: i64 = 0xc4ce_b9fe_1a85_ec53_u64.cast_signed();

/// How a guest divides its memory: pages of each hart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Pages rewritten in every pass.
    pub hot: u64,
    /// Pages swept slowly.
    pub cold: u64,
    /// Cold pages checked in every pass.
    pub stretch: u64,
}

impl Plan {
    /// The plan for so many bytes of memory, at least [`super::MINIMUM_MEMORY`], and 1 to 64
    /// harts.
    #[must_use]
    pub fn new(memory: u64, harts: u64) -> Self {
        let harts = harts.max(1);
        let pages = memory >> 12;
        let area = pages.saturating_sub(RESERVED_PAGES + pages / 4);
        let all_hot = (pages >> HOT_SHARE).min(HOT_LIMITS.1);
        let hot = (all_hot / harts).clamp(1, HOT_LIMITS.0);
        let cold = (area / harts).saturating_sub(hot);
        Self { hot, cold, stretch: (cold >> STRETCHES) + 1 }
    }
}

/// How many further passes of every hart prove that all of the guest's pages have been checked
/// once more: those that every stretch takes to come round, and the one under way.
#[must_use]
pub fn passes_to_recheck_all(memory: u64, harts: u64) -> u64 {
    let plan = Plan::new(memory, harts);
    plan.cold.div_ceil(plan.stretch) + 1
}

/// What is called from several places.
struct Routines {
    check: Label,
    write: Label,
    locate_cold: Label,
}

/// The program.
pub(super) fn program() -> Assembler {
    let mut asm = Assembler::new();
    start(&mut asm);
    let routines = Routines { check: asm.label(), write: asm.label(), locate_cold: asm.label() };
    plan(&mut asm);
    constants(&mut asm);
    fill(&mut asm, &routines);
    let pass = asm.here();
    hot_pages(&mut asm, &routines);
    sweep(&mut asm, &routines);
    stretch(&mut asm, &routines);
    diary(&mut asm);
    asm.addi(Reg::T0, Reg::S5, -1);
    progress(&mut asm, Reg::T0);
    asm.j(pass);
    check(&mut asm, &routines);
    write(&mut asm, &routines);
    locate_cold(&mut asm, &routines);
    asm
}

/// Notes the count.
fn diary(asm: &mut Assembler) {
    asm.li(Reg::T0, (DIARIES - RESERVED_PAGES.cast_signed()) << 12);
    asm.add(Reg::T0, Reg::T0, Reg::S1);
    asm.slli(Reg::T1, Reg::S0, 12);
    asm.add(Reg::T0, Reg::T0, Reg::T1);
    asm.sd(Reg::S5, 0, Reg::T0);
}

/// [`Plan::new`] in the guest's own words: `s3` (the pages of RAM till now) and `s4`.
fn plan(asm: &mut Assembler) {
    let some = asm.label();
    asm.srli(Reg::T0, Reg::S3, 2);
    asm.sub(Reg::T0, Reg::S3, Reg::T0);
    asm.addi(Reg::T0, Reg::T0, -RESERVED_PAGES.cast_signed());
    asm.divu(Reg::S4, Reg::T0, Reg::S2);
    asm.srli(Reg::T0, Reg::S3, HOT_SHARE);
    asm.li(Reg::T1, HOT_LIMITS.1.cast_signed());
    asm.min_unsigned(Reg::T0, Reg::T0, Reg::T1);
    asm.divu(Reg::T0, Reg::T0, Reg::S2);
    asm.li(Reg::T1, HOT_LIMITS.0.cast_signed());
    asm.min_unsigned(Reg::S3, Reg::T0, Reg::T1);
    asm.bnez(Reg::S3, some);
    asm.li(Reg::S3, 1);
    asm.bind(some);
    asm.sub(Reg::S4, Reg::S4, Reg::S3);
}

fn constants(asm: &mut Assembler) {
    asm.li(Reg::SP, MIX);
    asm.li(Reg::GP, FINISH);
    asm.slli(Reg::S11, Reg::S2, 12);
    asm.li(Reg::S5, 1);
    asm.li(Reg::S6, 2);
    asm.li(Reg::S7, 0);
    asm.li(Reg::S8, 0);
    asm.li(Reg::S9, 0);
}

/// Writes the count 1 to every page of this hart.
fn fill(asm: &mut Assembler, routines: &Routines) {
    asm.mv(Reg::T4, Reg::S5);
    describe(asm, Reg::T4, Reg::T5, Reg::T6);
    locate_first(asm);
    asm.add(Reg::TP, Reg::S3, Reg::S4);
    let next = asm.here();
    asm.call(routines.write);
    step(asm, next);
}

/// Checks and rewrites the hot pages, and counts.
fn hot_pages(asm: &mut Assembler, routines: &Routines) {
    asm.mv(Reg::A4, Reg::S5);
    asm.addi(Reg::S5, Reg::S5, 1);
    asm.mv(Reg::T4, Reg::S5);
    describe(asm, Reg::A4, Reg::A5, Reg::A6);
    describe(asm, Reg::T4, Reg::T5, Reg::T6);
    locate_first(asm);
    asm.mv(Reg::TP, Reg::S3);
    let next = asm.here();
    asm.call(routines.check);
    asm.call(routines.write);
    step(asm, next);
}

/// Checks and rewrites as many cold pages as the hot ones have paid for.
fn sweep(asm: &mut Assembler, routines: &Routines) {
    let done = asm.label();
    asm.add(Reg::S9, Reg::S9, Reg::S3);
    let next = asm.here();
    asm.li(Reg::T0, HOT_PER_COLD.cast_signed());
    asm.bltu(Reg::S9, Reg::T0, done);
    asm.sub(Reg::S9, Reg::S9, Reg::T0);
    asm.mv(Reg::T4, Reg::S6);
    asm.addi(Reg::A4, Reg::S6, -1);
    describe(asm, Reg::A4, Reg::A5, Reg::A6);
    describe(asm, Reg::T4, Reg::T5, Reg::T6);
    asm.mv(Reg::T0, Reg::S7);
    asm.call(routines.locate_cold);
    asm.call(routines.check);
    asm.call(routines.write);
    asm.addi(Reg::S7, Reg::S7, 1);
    asm.bltu(Reg::S7, Reg::S4, next);
    asm.li(Reg::S7, 0);
    asm.addi(Reg::S6, Reg::S6, 1);
    asm.j(next);
    asm.bind(done);
}

/// Checks the next stretch of the cold pages.
fn stretch(asm: &mut Assembler, routines: &Routines) {
    asm.srli(Reg::TP, Reg::S4, STRETCHES);
    asm.addi(Reg::TP, Reg::TP, 1);
    let next = asm.here();
    // The sweep's number below its position, one less from there on.
    asm.sltu(Reg::A4, Reg::S8, Reg::S7);
    asm.add(Reg::A4, Reg::A4, Reg::S6);
    asm.addi(Reg::A4, Reg::A4, -1);
    describe(asm, Reg::A4, Reg::A5, Reg::A6);
    asm.mv(Reg::T0, Reg::S8);
    asm.call(routines.locate_cold);
    asm.call(routines.check);
    asm.addi(Reg::S8, Reg::S8, 1);
    let within = asm.label();
    asm.bltu(Reg::S8, Reg::S4, within);
    asm.li(Reg::S8, 0);
    asm.bind(within);
    asm.addi(Reg::TP, Reg::TP, -1);
    asm.bnez(Reg::TP, next);
}

/// `place` and `key` for `count`: the second word is any but the first, and the key is what the
/// hash knows of count and seed.
fn describe(asm: &mut Assembler, count: Reg, place: Reg, key: Reg) {
    asm.li(Reg::T0, 511);
    asm.remu(place, count, Reg::T0);
    asm.addi(place, place, 1);
    asm.slli(place, place, 3);
    asm.li(Reg::T0, KEY);
    asm.mul(key, count, Reg::T0);
    asm.xor(key, key, Reg::S10);
}

/// `rd` = the hash of a key and the page in hand.
fn hash(asm: &mut Assembler, rd: Reg, key: Reg) {
    asm.mul(rd, Reg::A3, Reg::SP);
    asm.xor(rd, rd, key);
    asm.srli(Reg::T0, rd, 32);
    asm.xor(rd, rd, Reg::T0);
    asm.mul(rd, rd, Reg::GP);
    asm.srli(Reg::T0, rd, 29);
    asm.xor(rd, rd, Reg::T0);
}

/// Takes this hart's first page in hand.
fn locate_first(asm: &mut Assembler) {
    asm.mv(Reg::A3, Reg::S0);
    asm.slli(Reg::A2, Reg::S0, 12);
    asm.add(Reg::A2, Reg::A2, Reg::S1);
}

/// Takes this hart's next page in hand, as long as there are any.
fn step(asm: &mut Assembler, next: Label) {
    asm.add(Reg::A3, Reg::A3, Reg::S2);
    asm.add(Reg::A2, Reg::A2, Reg::S11);
    asm.addi(Reg::TP, Reg::TP, -1);
    asm.bnez(Reg::TP, next);
}

/// Takes this hart's cold page `t0` in hand.
fn locate_cold(asm: &mut Assembler, routines: &Routines) {
    asm.bind(routines.locate_cold);
    asm.add(Reg::A3, Reg::T0, Reg::S3);
    asm.mul(Reg::A3, Reg::A3, Reg::S2);
    asm.add(Reg::A3, Reg::A3, Reg::S0);
    asm.slli(Reg::A2, Reg::A3, 12);
    asm.add(Reg::A2, Reg::A2, Reg::S1);
    asm.ret();
}

/// Writes both words of the page in hand.
fn write(asm: &mut Assembler, routines: &Routines) {
    asm.bind(routines.write);
    hash(asm, Reg::T1, Reg::T6);
    asm.add(Reg::T2, Reg::A2, Reg::T5);
    asm.sd(Reg::T4, 0, Reg::A2);
    asm.sd(Reg::T1, 0, Reg::T2);
    asm.ret();
}

/// Checks both words of the page in hand; a wrong one ends the guest.
fn check(asm: &mut Assembler, routines: &Routines) {
    let (wrong_count, wrong_hash) = (asm.label(), asm.label());
    asm.bind(routines.check);
    asm.ld(Reg::T3, 0, Reg::A2);
    asm.bne(Reg::T3, Reg::A4, wrong_count);
    hash(asm, Reg::T1, Reg::A6);
    asm.add(Reg::T2, Reg::A2, Reg::A5);
    asm.ld(Reg::T3, 0, Reg::T2);
    asm.bne(Reg::T3, Reg::T1, wrong_hash);
    asm.ret();
    asm.bind(wrong_count);
    asm.mv(Reg::T1, Reg::A4);
    asm.bind(wrong_hash);
    fail(asm);
}

/// Says that in page `a3` there is `t3` where `t1` should be, and shuts down.
fn fail(asm: &mut Assembler) {
    let (copy, hex) = (asm.label(), asm.label());
    let texts = ["selfcheck: hart 0x", " page 0x", " expected 0x", " found 0x", "\n"];
    let labels = texts.map(|_| asm.label());
    asm.mv(Reg::S5, Reg::T1);
    asm.mv(Reg::S6, Reg::T3);
    message_buffer(asm);
    for (label, value) in labels.into_iter().zip([Reg::S0, Reg::A3, Reg::S5, Reg::S6]) {
        asm.la(Reg::A0, label);
        asm.call(copy);
        asm.mv(Reg::A0, value);
        asm.call(hex);
    }
    asm.la(Reg::A0, labels[4]);
    asm.call(copy);
    print_and_shut_down(asm);
    copy_text(asm, copy);
    copy_hex(asm, hex);
    for (label, text) in labels.into_iter().zip(texts) {
        asm.bind(label);
        asm.text(text);
    }
}

/// `s7` and `s8` = where this hart's message begins and, so far, ends.
fn message_buffer(asm: &mut Assembler) {
    asm.li(Reg::T0, MESSAGES - (RESERVED_PAGES.cast_signed() << 12));
    asm.add(Reg::S7, Reg::S1, Reg::T0);
    asm.slli(Reg::T0, Reg::S0, 8);
    asm.add(Reg::S7, Reg::S7, Reg::T0);
    asm.mv(Reg::S8, Reg::S7);
}

fn print_and_shut_down(asm: &mut Assembler) {
    const CONSOLE: i64 = 0x4442_434e;
    const RESET: i64 = 0x5352_5354;
    asm.sub(Reg::A0, Reg::S8, Reg::S7);
    asm.mv(Reg::A1, Reg::S7);
    asm.li(Reg::A2, 0);
    call(asm, CONSOLE, 0);
    asm.li(Reg::A0, 0);
    asm.li(Reg::A1, 1);
    call(asm, RESET, 0);
    let stay = asm.here();
    asm.j(stay);
}

/// Appends the text at `a0`.
fn copy_text(asm: &mut Assembler, routine: Label) {
    let done = asm.label();
    asm.bind(routine);
    let next = asm.here();
    asm.lbu(Reg::T0, 0, Reg::A0);
    asm.beqz(Reg::T0, done);
    asm.sb(Reg::T0, 0, Reg::S8);
    asm.addi(Reg::A0, Reg::A0, 1);
    asm.addi(Reg::S8, Reg::S8, 1);
    asm.j(next);
    asm.bind(done);
    asm.ret();
}

/// Appends the sixteen digits of `a0`.
fn copy_hex(asm: &mut Assembler, routine: Label) {
    let decimal = asm.label();
    asm.bind(routine);
    asm.li(Reg::T1, 16);
    asm.li(Reg::T2, 10);
    let next = asm.here();
    asm.srli(Reg::T0, Reg::A0, 60);
    asm.slli(Reg::A0, Reg::A0, 4);
    asm.addi(Reg::T3, Reg::T0, 0x30);
    asm.bltu(Reg::T0, Reg::T2, decimal);
    asm.addi(Reg::T3, Reg::T0, 0x57);
    asm.bind(decimal);
    asm.sb(Reg::T3, 0, Reg::S8);
    asm.addi(Reg::S8, Reg::S8, 1);
    asm.addi(Reg::T1, Reg::T1, -1);
    asm.bnez(Reg::T1, next);
    asm.ret();
}
