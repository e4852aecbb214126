//! What the kernel writes into a guest's memory with no vCPU running: the tables of Arm's interrupt
//! translation service, when a monitor has them saved. It is in no ring.

use crate::native::{DATA, Machine, Vcpu};
use crate::oracle::{Copy, Lost, take};
use crate::{PAGES, has_rings, with};
use kvm_bindings as kvm;
use kvm_ioctls::{DeviceFd, VmFd};
use vellum_kvm::Way;
use vellum_memory::{DirtySource, PageSet};

/// Where the devices are, above all memory and apart.
const DISTRIBUTOR: u64 = 0x4000_0000;
const REDISTRIBUTORS: u64 = 0x4010_0000;
const TRANSLATION: u64 = 0x4100_0000;

/// The register that says where the table of collections is, `GITS_BASER1`, and that it is valid.
const TABLE_OF_COLLECTIONS: u64 = 0x108;
const VALID: u64 = 1 << 63;

/// An interrupt controller whose tables are in the first pages of the data region.
struct Interrupts {
    service: DeviceFd,
    /// It outlives what belongs to it.
    _controller: DeviceFd,
}

impl Interrupts {
    fn of(machine: &Machine) -> Self {
        let vm = &machine.vm;
        let controller = device(vm, kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3);
        put(&controller, kvm::KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR);
        put(&controller, kvm::KVM_VGIC_V3_ADDR_TYPE_REDIST, REDISTRIBUTORS);
        control(&controller, kvm::KVM_DEV_ARM_VGIC_CTRL_INIT);
        let service = device(vm, kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS);
        put(&service, kvm::KVM_VGIC_ITS_ADDR_TYPE, TRANSLATION);
        control(&service, kvm::KVM_DEV_ARM_VGIC_CTRL_INIT);
        let table = machine.slots[DATA].as_kvm().guest_phys_addr;
        let registers = kvm::KVM_DEV_ARM_VGIC_GRP_ITS_REGS;
        set(&service, registers, TABLE_OF_COLLECTIONS, &(VALID | table));
        Self { service, _controller: controller }
    }

    /// Has the kernel write the table: no collections, which is one entry of eight zero bytes.
    fn save(&self) {
        control(&self.service, kvm::KVM_DEV_ARM_ITS_SAVE_TABLES);
    }
}

fn device(vm: &VmFd, type_: kvm::kvm_device_type) -> DeviceFd {
    let mut device = kvm::kvm_create_device { type_, ..Default::default() };
    vm.create_device(&mut device).expect("KVM makes a device")
}

fn put(device: &DeviceFd, what: u32, address: u64) {
    set(device, kvm::KVM_DEV_ARM_VGIC_GRP_ADDR, what.into(), &address);
}

fn control(device: &DeviceFd, command: u32) {
    set(device, kvm::KVM_DEV_ARM_VGIC_GRP_CTRL, command.into(), &0);
}

fn set(device: &DeviceFd, group: u32, attr: u64, value: &u64) {
    let addr = core::ptr::from_ref(value).expose_provenance() as u64;
    let attribute = kvm::kvm_device_attr { group, attr, addr, flags: 0 };
    device.set_device_attr(&attribute).expect("the device takes it");
}

/// A guest that stores to its first page, since that is its only one to walk over, and whose interrupt
/// tables begin there.
fn guest(way: Way, test: impl FnOnce(Machine, Interrupts)) {
    with(way, &[Machine::walk(1, 0, 1, 10)], |machine| {
        let interrupts = Interrupts::of(&machine);
        test(machine, interrupts);
    });
}

/// Rounds of a guest that stores, and of a kernel that saves tables while it stands: what was lost.
fn rounds(machine: &mut Machine, interrupts: &Interrupts) -> Result<(), Lost> {
    let Machine { log, vcpus, memory, .. } = machine;
    log.start().expect("the log starts");
    let mut copy = Copy::of(memory);
    let mut round = PageSet::new(log.layout());
    let mut next = |copy: &mut Copy| {
        take(log, &mut round).expect("a round");
        copy.deliver(&round, memory);
        copy.is_whole(memory).map(|()| round.regions()[DATA].pages().collect::<Vec<_>>())
    };
    next(&mut copy)?;
    for _ in 0..20 {
        vcpus.iter_mut().for_each(Vcpu::round);
        assert_eq!(copy.changed(DATA, memory), [0], "the guest has stored");
        assert_eq!(next(&mut copy)?, [0]);
        interrupts.save();
        assert_eq!(copy.changed(DATA, memory), [0], "the kernel has written the table");
        assert_eq!(next(&mut copy)?, [0]);
        assert_eq!(next(&mut copy)?, Vec::<u64>::new());
    }
    Ok(())
}

#[test]
fn it_is_in_the_next_round_of_every_way_with_bitmaps() {
    for way in Way::ALL.into_iter().filter(|&way| way != Way::Ring) {
        guest(way, |mut machine, interrupts| {
            assert_eq!(rounds(&mut machine, &interrupts), Ok(()), "{way}");
        });
    }
}

#[cfg(feature = "breaks")]
#[test]
fn a_log_that_reads_rings_alone_loses_it_and_the_oracle_says_so() {
    guest(Way::RingWithBitmap, |mut machine, interrupts| {
        machine.log.break_with(vellum_kvm::Break::IgnoreBitmaps);
        let lost = Lost { region: DATA, page: 0 };
        assert_eq!(rounds(&mut machine, &interrupts), Err(lost));
    });
}

#[test]
fn it_and_a_full_ring_are_in_one_round() {
    with(Way::RingWithBitmap, &[Machine::walk(1, 64, PAGES - 64, 20_000)], |mut machine| {
        assert!(has_rings(machine.log.way()));
        let interrupts = Interrupts::of(&machine);
        let Machine { log, vcpus, memory, .. } = &mut machine;
        log.start().expect("the log starts");
        let mut copy = Copy::of(memory);
        let mut round = PageSet::new(log.layout());
        for _ in 0..3 {
            vcpus.iter_mut().for_each(Vcpu::round);
            interrupts.save();
            take(log, &mut round).expect("a round");
            assert!(round.regions()[DATA].contains(0), "what the kernel wrote");
            copy.deliver(&round, memory);
            assert_eq!(copy.is_whole(memory), Ok(()));
        }
        assert!(vcpus[0].full > 0, "the ring was full meanwhile");
    });
}
