//! A guest at EL1, with its memory cached: what it stores the host sees, also on processors that keep
//! uncached stores apart.

use super::{CODE, INCREMENT, MULTIPLIER, Walk};
use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// The guest's page table: of 39 bits, a GiB an entry.
const ROOT: u64 = 0x1000;

/// A store to here, where no memory is, ends a round.
const ROUND: u64 = 0x5000_0000;

#[rustfmt::skip]
const PROGRAM: [u32; 10] = [
    0xaa09_03e3, // round: mov x3, x9
    0x9b0a_7d08, // step:  mul x8, x8, x10
    0x8b0b_0108, //        add x8, x8, x11
    0x9bc6_7d02, //        umulh x2, x8, x6
    0xd374_cc42, //        lsl x2, x2, #12
    0xf822_68e8, //        str x8, [x7, x2]
    0xf100_0463, //        subs x3, x3, #1
    0x54ff_ff41, //        b.ne step
    0xf900_0188, //        str x8, [x12]
    0x17ff_fff7, //        b round
];

/// A leaf of a table: memory that EL1 reads, writes and executes, shared with all CPUs, by the first of
/// [`MEMORY_TYPES`].
const MEMORY: u64 = 1 << 10 | 3 << 8 | 0b01;
/// A leaf for what is no memory: never executed, by the second type.
const DEVICE: u64 = 3 << 53 | 1 << 10 | 1 << 2 | 0b01;

/// System registers, by their five numbers, and what they are set to (Arm ARM, D23.2).
const SYSTEM: [([u64; 5], u64); 4] =
    [(MAIR_EL1, MEMORY_TYPES), (TCR_EL1, TRANSLATION), (TTBR0_EL1, ROOT), (SCTLR_EL1, CONTROL)];
const MAIR_EL1: [u64; 5] = [3, 0, 10, 2, 0];
const TCR_EL1: [u64; 5] = [3, 0, 2, 0, 2];
const TTBR0_EL1: [u64; 5] = [3, 0, 2, 0, 0];
const SCTLR_EL1: [u64; 5] = [3, 0, 1, 0, 0];

/// Cached memory, and devices that neither gather nor reorder.
const MEMORY_TYPES: u64 = 0x00ff;
/// 39 bits below, walked through the caches, and nothing above. Physical addresses of 36 bits.
const TRANSLATION: u64 = 1 << 32 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 25;
/// Translation and both caches on; the rest are the bits that are always one.
const CONTROL: u64 = 0x30d0_0800 | 1 << 12 | 1 << 2 | 1;

/// Words of KVM's core registers before the program counter: 31 registers and a stack pointer.
const PROGRAM_COUNTER: u64 = 2 * 32;

/// Whether this is the end of a round.
pub(crate) fn is_round(exit: &VcpuExit<'_>) -> bool {
    matches!(exit, VcpuExit::MmioWrite(ROUND, _))
}

/// Has `vcpu` begin with the walk.
pub(crate) fn begin(_kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd, walk: &Walk) {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).expect("KVM prefers a processor");
    vcpu.vcpu_init(&target).expect("KVM makes it");
    for (number, value) in SYSTEM {
        set(vcpu, system(number), value);
    }
    let general = [
        (6, walk.pages),
        (7, walk.base),
        (8, walk.state),
        (9, walk.stores),
        (10, MULTIPLIER),
        (11, INCREMENT),
        (12, ROUND),
    ];
    for (register, value) in general {
        set(vcpu, core(2 * register), value);
    }
    set(vcpu, core(PROGRAM_COUNTER), CODE);
}

/// A core register of 64 bits, by the words before it.
fn core(words: u64) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | words
}

fn system([op0, op1, crn, crm, op2]: [u64; 5]) -> u64 {
    let number = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2;
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM64_SYSREG) | number
}

fn set(vcpu: &VcpuFd, register: u64, value: u64) {
    vcpu.set_one_reg(register, &value.to_ne_bytes()).expect("KVM takes a register");
}

/// Writes a table that maps a GiB of memory and one of devices, each one to one, and the program.
pub(crate) fn write(memory: &MmapRegion) {
    let memory = memory.as_volatile_slice();
    let at = |address: u64| usize::try_from(address).expect("a low address");
    memory.write_obj(MEMORY, at(ROOT)).expect("in memory");
    memory.write_obj(DEVICE | 1 << 30, at(ROOT) + 8).expect("in memory");
    let program = PROGRAM.map(u32::to_le_bytes);
    memory.write_slice(program.as_flattened(), at(CODE)).expect("in memory");
}
