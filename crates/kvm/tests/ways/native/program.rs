//! What the guest executes, and where.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// Where the guest's code is, physically and virtually: everything is mapped one to one.
const CODE: u64 = 0x8000;
/// Its page tables.
const ROOT: u64 = 0x1000;
const UPPER: u64 = 0x2000;
const LOWER: u64 = 0x3000;

/// The port by which it ends a round.
pub(super) const ROUND: u16 = 0x10;

const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;

#[rustfmt::skip]
const PROGRAM: [u8; 33] = [
    0x4c, 0x89, 0xc9,       // round: mov rcx, r9
    0x4d, 0x0f, 0xaf, 0xc2, // step:  imul r8, r10
    0x4d, 0x01, 0xd8,       //        add r8, r11
    0x4c, 0x89, 0xc0,       //        mov rax, r8
    0x48, 0xf7, 0xe6,       //        mul rsi           rdx = r8 * rsi >> 64
    0x48, 0xc1, 0xe2, 0x0c, //        shl rdx, 12
    0x4c, 0x89, 0x04, 0x17, //        mov [rdi + rdx], r8
    0x48, 0xff, 0xc9,       //        dec rcx
    0x75, 0xe6,             //        jnz step
    0xe6, 0x10,             //        out 0x10, al
    0xeb, 0xdf,             //        jmp round
];

/// The walk of a vCPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Its state, which it stores.
    pub(crate) state: u64,
    /// The physical address of the first of its pages.
    pub(crate) base: u64,
    /// How many they are.
    pub(crate) pages: u64,
    /// Stores a round.
    pub(crate) stores: u64,
}

impl Walk {
    /// The next page that it stores to, counted from its first, and what it stores there.
    pub(crate) fn step(&mut self) -> (u64, u64) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        let page = (u128::from(self.state) * u128::from(self.pages)) >> 64;
        (u64::try_from(page).expect("below the number of pages"), self.state)
    }

    /// The registers to begin it with. Interrupts come to the host, and level 3 may use ports.
    pub(super) fn registers(&self) -> kvm_regs {
        kvm_regs {
            rip: CODE,
            rflags: 0x3202,
            rdi: self.base,
            rsi: self.pages,
            r8: self.state,
            r9: self.stores,
            r10: MULTIPLIER,
            r11: INCREMENT,
            ..Default::default()
        }
    }
}

/// Writes tables that map the first GiB one to one, and the program.
pub(super) fn write(memory: &MmapRegion) {
    let memory = memory.as_volatile_slice();
    let entry = |at: u64, entry: u64| {
        memory.write_obj(entry, usize::try_from(at).expect("a low address")).expect("in memory");
    };
    let (table, leaf) = (0x07, 0x87);
    entry(ROOT, UPPER | table);
    entry(UPPER, LOWER | table);
    (0..512).for_each(|at| entry(LOWER + at * 8, at << 21 | leaf));
    memory.write_slice(&PROGRAM, 0x8000).expect("in memory");
}

/// Long mode at level 3.
pub(super) fn level_3(sregs: &mut kvm_sregs) {
    let code = segment(0x33, 11, 1);
    let data = segment(0x2b, 3, 0);
    (sregs.cs, sregs.ss, sregs.ds, sregs.es) = (code, data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.ldt.unusable = 1;
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = ROOT;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd01;
}

fn segment(selector: u16, type_: u8, long: u8) -> kvm_segment {
    kvm_segment {
        selector,
        type_,
        l: long,
        db: 1 - long,
        limit: u32::MAX,
        present: 1,
        dpl: 3,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
