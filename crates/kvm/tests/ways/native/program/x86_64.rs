//! A guest at level 3 of long mode, which also a host without VMX or SVM runs natively: there level 0 is
//! interpreted, and an interpreted store touches no table entry.

use super::{CODE, INCREMENT, MULTIPLIER, Walk};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// The guest's page tables.
const ROOT: u64 = 0x1000;
const UPPER: u64 = 0x2000;
const LOWER: u64 = 0x3000;

/// The port by which it ends a round.
const ROUND: u16 = 0x10;

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

/// Whether this is the end of a round.
pub(crate) fn is_round(exit: &VcpuExit<'_>) -> bool {
    matches!(exit, VcpuExit::IoOut(ROUND, _))
}

/// Has `vcpu` begin with the walk.
pub(crate) fn begin(kvm: &Kvm, _vm: &VmFd, vcpu: &VcpuFd, walk: &Walk) {
    let cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
    vcpu.set_cpuid2(&cpuid.expect("what is supported")).expect("KVM takes it");
    let mut sregs = vcpu.get_sregs().expect("registers");
    level_3(&mut sregs);
    vcpu.set_sregs(&sregs).expect("KVM takes level 3");
    vcpu.set_regs(&registers(walk)).expect("KVM takes registers");
}

/// Interrupts come to the host, and level 3 may use ports.
fn registers(walk: &Walk) -> kvm_regs {
    kvm_regs {
        rip: CODE,
        rflags: 0x3202,
        rdi: walk.base,
        rsi: walk.pages,
        r8: walk.state,
        r9: walk.stores,
        r10: MULTIPLIER,
        r11: INCREMENT,
        ..Default::default()
    }
}

/// Writes tables that map the first GiB one to one, and the program.
pub(crate) fn write(memory: &MmapRegion) {
    let memory = memory.as_volatile_slice();
    let entry = |at: u64, entry: u64| {
        memory.write_obj(entry, usize::try_from(at).expect("a low address")).expect("in memory");
    };
    let (table, leaf) = (0x07, 0x87);
    entry(ROOT, UPPER | table);
    entry(UPPER, LOWER | table);
    (0..512).for_each(|at| entry(LOWER + at * 8, at << 21 | leaf));
    memory.write_slice(&PROGRAM, usize::try_from(CODE).expect("a low address")).expect("in memory");
}

/// Long mode at level 3.
fn level_3(sregs: &mut kvm_sregs) {
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
