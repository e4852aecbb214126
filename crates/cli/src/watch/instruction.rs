//! Instructions that store, as a person reads them.

/// The registers, by the names of the calling convention.
const NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4",
    "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4",
    "t5", "t6",
];

/// The assembler's text of an instruction that stores; `None` for any other. Encodings: RISC-V
/// unprivileged specification, "RV32/64G Instruction Set Listings".
pub(crate) fn text(word: u32) -> Option<String> {
    match word & 0x7f {
        0x23 => store(word),
        0x2f => atomic(word),
        _ => None,
    }
}

fn register(word: u32, low: u32) -> &'static str {
    NAMES[(word >> low & 31) as usize]
}

fn store(word: u32) -> Option<String> {
    let name = ["sb", "sh", "sw", "sd"].get((word >> 12 & 7) as usize)?;
    // The upper seven bits are signed, the lower five are where a destination would be.
    let offset = word.cast_signed() >> 25 << 5 | (word >> 7 & 31).cast_signed();
    Some(format!("{name} {},{offset}({})", register(word, 20), register(word, 15)))
}

fn atomic(word: u32) -> Option<String> {
    let name = match word >> 27 {
        0x00 => "amoadd",
        0x01 => "amoswap",
        0x03 => "sc",
        0x04 => "amoxor",
        0x08 => "amoor",
        0x0c => "amoand",
        0x10 => "amomin",
        0x14 => "amomax",
        0x18 => "amominu",
        0x1c => "amomaxu",
        _ => return None,
    };
    let width = [".w", ".d"].get((word >> 12 & 7).checked_sub(2)? as usize)?;
    let order = ["", ".rl", ".aq", ".aqrl"][(word >> 25 & 3) as usize];
    let [target, value, at] = [7, 20, 15].map(|low| register(word, low));
    Some(format!("{name}{width}{order} {target},{value},({at})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_machine::guests::assembler::Assembler;
    use vellum_machine::vcpu::Reg;

    #[test]
    fn what_our_assembler_makes_reads_as_it_was_written() {
        let mut asm = Assembler::new();
        asm.sd(Reg::S5, 0, Reg::T0);
        asm.sw(Reg::A0, -4, Reg::SP);
        asm.sb(Reg::ZERO, 2047, Reg::T6);
        asm.sd(Reg::RA, -2048, Reg::S11);
        asm.amoadd_d(Reg::A0, Reg::T4, Reg::A2);
        asm.amoadd_w(Reg::ZERO, Reg::T4, Reg::A2);
        let words = asm.finish().expect("it assembles");
        let texts: Vec<_> = words.into_iter().filter_map(text).collect();
        let expected = [
            "sd s5,0(t0)",
            "sw a0,-4(sp)",
            "sb zero,2047(t6)",
            "sd ra,-2048(s11)",
            "amoadd.d a0,t4,(a2)",
            "amoadd.w zero,t4,(a2)",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn words_of_the_gnu_assembler_read_as_they_were_written() {
        // sc.d.rl t0,a1,(a2); amoswap.w.aqrl a0,a1,(s1); amomaxu.d t3,t4,(t5); sh t1,18(gp)
        let words = [0x1ab6_32af, 0x0eb4_a52f, 0xe1df_3e2f, 0x0061_9923];
        let expected = [
            "sc.d.rl t0,a1,(a2)",
            "amoswap.w.aqrl a0,a1,(s1)",
            "amomaxu.d t3,t4,(t5)",
            "sh t1,18(gp)",
        ];
        assert_eq!(words.map(|word| text(word).unwrap_or_default()), expected);
    }

    #[test]
    fn what_stores_nothing_has_no_text() {
        // addi, ld, lr.d, jal, and no instruction at all
        for word in [0x0010_0093, 0x0005_3503, 0x1005_352f, 0x0000_006f, 0, u32::MAX] {
            assert_eq!(text(word), None, "{word:#x}");
        }
    }
}
