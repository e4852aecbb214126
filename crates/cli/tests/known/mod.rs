//! A guest whose every store is known.

use vellum_machine::RAM_BASE;
use vellum_machine::guests::assembler::Assembler;
use vellum_machine::guests::image;
use vellum_machine::guests::start::{call, start};
use vellum_machine::vcpu::Reg;

/// Where it writes: above its program.
pub(crate) const AREA: u64 = 0x8010_0000;
/// How often each hart writes everything.
pub(crate) const ROUNDS: u64 = 300;

const SRST: i64 = 0x5352_5354;
const PAGE: i64 = 0x1000;

/// One store of a hart in each round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Eight bytes of the round's number to the first sub-page, each hart its own.
    Double,
    /// The round's low byte, to the second page.
    Byte,
    /// Eight bytes that begin in one sub-page and end in the next.
    Across,
    /// One more in a counter that the harts share.
    Atomic,
    /// Four bytes, in the counter's page and not in its sub-page.
    Word,
    /// Eight bytes of which four are in the next page.
    Pages,
    /// Eight bytes, the last of a sub-page.
    Last,
}

impl Kind {
    /// In the order in which a hart makes them.
    pub(crate) const ALL: [Self; 7] =
        [Self::Double, Self::Byte, Self::Across, Self::Atomic, Self::Word, Self::Pages, Self::Last];

    /// Where, and how many bytes.
    pub(crate) fn place(self, hart: u64) -> (u64, u64) {
        let (offset, stride, length) = match self {
            Self::Double => (0, 8, 8),
            Self::Byte => (0x1000, 1, 1),
            Self::Across => (0x107c, 0x200, 8),
            Self::Atomic => (0x2000, 0, 8),
            Self::Word => (0x2800, 4, 4),
            Self::Pages => (0x4ffc, 0x1000, 8),
            Self::Last => (0x1078, 0x200, 8),
        };
        (AREA + offset + hart * stride, length)
    }
}

/// A store that a hart makes: where, and its bytes if they do not depend on the other harts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(crate) kind: Kind,
    pub(crate) gpa: u64,
    pub(crate) length: u64,
    pub(crate) bytes: Option<String>,
}

/// All stores of a hart to its area, in order, but for those by which it says that it is done.
pub(crate) fn stores(hart: u64) -> Vec<Known> {
    let rounds = (1..=ROUNDS).flat_map(|round| Kind::ALL.map(|kind| (round, kind)));
    let known = rounds.map(|(round, kind)| {
        let (gpa, length) = kind.place(hart);
        let bytes = (kind != Kind::Atomic).then(|| hex(round, length));
        Known { kind, gpa, length, bytes }
    });
    known.collect()
}

/// The low bytes of a number, as they lie in memory.
pub(crate) fn hex(number: u64, length: u64) -> String {
    let bytes = number.to_le_bytes().into_iter().zip(0..length);
    bytes.map(|(byte, _)| format!("{byte:02x}")).collect()
}

/// Its ELF file. It shuts down when every hart has made all of its stores.
pub(crate) fn elf() -> Vec<u8> {
    let mut asm = Assembler::new();
    start(&mut asm);
    addresses(&mut asm);
    asm.li(Reg::S5, 1);
    let round = asm.here();
    asm.sd(Reg::S5, 0, Reg::A2);
    asm.sb(Reg::S5, 0, Reg::A3);
    asm.sd(Reg::S5, 0, Reg::A4);
    asm.li(Reg::T0, 1);
    asm.amoadd_d(Reg::ZERO, Reg::T0, Reg::A5);
    asm.sw(Reg::S5, 0, Reg::S6);
    asm.sd(Reg::S5, 0, Reg::S7);
    asm.sd(Reg::S5, 0, Reg::S8);
    asm.addi(Reg::S5, Reg::S5, 1);
    asm.li(Reg::T0, ROUNDS as i64 + 1);
    asm.bltu(Reg::S5, Reg::T0, round);
    done(&mut asm);
    image::elf(RAM_BASE.gpa(), &asm.finish().expect("it assembles"))
}

/// The registers of each kind, for this hart.
fn addresses(asm: &mut Assembler) {
    let registers = [Reg::A2, Reg::A3, Reg::A4, Reg::A5, Reg::S6, Reg::S7, Reg::S8];
    for (register, kind) in registers.into_iter().zip(Kind::ALL) {
        let (first, _) = kind.place(0);
        let stride = kind.place(1).0 - first;
        asm.li(register, first as i64);
        asm.li(Reg::T0, stride as i64);
        asm.mul(Reg::T0, Reg::T0, Reg::S0);
        asm.add(register, register, Reg::T0);
    }
}

/// Says so in a page apart. The first hart waits for the others and shuts down.
fn done(asm: &mut Assembler) {
    asm.li(Reg::A2, AREA as i64 + 16 * PAGE);
    asm.li(Reg::T0, 1);
    asm.amoadd_d(Reg::ZERO, Reg::T0, Reg::A2);
    let wait = asm.here();
    asm.wfi();
    asm.bnez(Reg::S0, wait);
    asm.ld(Reg::T0, 0, Reg::A2);
    asm.bltu(Reg::T0, Reg::S2, wait);
    asm.li(Reg::A0, 0);
    asm.li(Reg::A1, 0);
    call(asm, SRST, 0);
}

/// What [`overwriting`] overwrites.
pub(crate) const TEXT: &str = "as before, every byte of it";

/// A guest whose first hart overwrites a text of its own program once, and shuts down.
pub(crate) fn overwriting() -> Vec<u8> {
    let mut asm = Assembler::new();
    start(&mut asm);
    let first = asm.label();
    asm.beqz(Reg::S0, first);
    let others = asm.here();
    asm.wfi();
    asm.j(others);
    asm.bind(first);
    let behind = asm.label();
    asm.j(behind);
    let text = asm.text(TEXT);
    asm.bind(behind);
    asm.la(Reg::A2, text);
    asm.li(Reg::T1, -1);
    asm.sd(Reg::T1, 0, Reg::A2);
    asm.li(Reg::A0, 0);
    asm.li(Reg::A1, 0);
    call(&mut asm, SRST, 0);
    image::elf(RAM_BASE.gpa(), &asm.finish().expect("it assembles"))
}
