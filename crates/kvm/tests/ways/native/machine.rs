//! A VM with two memslots.

use super::program::{self, Walk};
use super::vcpu::Vcpu;
use core::fmt;
use kvm_ioctls::{Kvm, VmFd};
use vellum_kvm::{KvmLog, Memslot, PrepareError, RingSize, SlotAccess, Way, open, prepare};
use vellum_memory::{AddressSpace, Gfn, GfnRange, PAGE_SIZE, SlotId};
use vm_memory::MmapRegion;

/// The region that has the guest's tables and its code.
pub(crate) const SYSTEM: usize = 0;
/// The region that it walks over.
pub(crate) const DATA: usize = 1;

const SYSTEM_PAGES: u64 = 16;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
const DATA_FIRST: u64 = 0x1000;

/// Why this machine cannot run it.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl Unavailable {
    pub(crate) fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl<E: std::error::Error> From<E> for Unavailable {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A VM, its memory, its vCPUs and its log.
pub(crate) struct Machine {
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) log: KvmLog,
    pub(crate) vm: VmFd,
    pub(crate) slots: Vec<Memslot>,
    /// Region by region. It outlives the VM: fields are dropped in their order.
    pub(crate) memory: Vec<MmapRegion>,
    /// The mappings that it is in.
    _mappings: Vec<MmapRegion>,
}

impl Machine {
    /// A guest whose vCPUs take the `walks` over `pages` pages.
    pub(crate) fn new(
        way: Way,
        ring: RingSize,
        pages: u64,
        walks: &[Walk],
    ) -> Result<Self, Unavailable> {
        let kvm = open()?;
        let vm = kvm.create_vm().expect("KVM makes a VM");
        let prepared = match prepare(&vm, way, ring) {
            Err(PrepareError::Missing(missing)) => return Err(missing.into()),
            other => other.expect("the way is prepared"),
        };
        let mappings = vec![mapping(SYSTEM_PAGES), mapping(pages)];
        let memory: Vec<_> = mappings.iter().map(aligned).collect();
        program::write(&memory[SYSTEM]);
        let slots = vec![slot(0, 0, &memory[SYSTEM]), slot(1, DATA_FIRST, &memory[DATA])];
        slots.iter().for_each(|slot| set(&vm, slot));
        #[allow(unsafe_code)]
        // SAFETY: S: these slots have just been made, and their memory is dropped after the log.
        let mut log = unsafe { prepared.log(slots.clone()) }.expect("two regions apart");
        let vcpus = walks.iter().zip(0..).map(|(walk, id)| vcpu(&kvm, &vm, id, walk, &mut log));
        let vcpus = vcpus.collect();
        Ok(Self { vcpus, log, vm, slots, memory, _mappings: mappings })
    }

    /// A walk over the pages `first..first + pages` of the data region.
    pub(crate) fn walk(seed: u64, first: u64, pages: u64, stores: u64) -> Walk {
        Walk { state: seed, base: (DATA_FIRST + first) * PAGE_SIZE, pages, stores }
    }

    /// Makes the slot again, or takes it away.
    pub(crate) fn set_slot(&self, index: usize, presence: Presence) {
        let mut region = self.slots[index].as_kvm();
        match presence {
            Presence::Gone => region.memory_size = 0,
            Presence::Logged => region.flags |= kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES,
        }
        #[allow(unsafe_code)]
        // SAFETY: S: the memory behind it is there as long as the VM.
        unsafe { self.vm.set_user_memory_region(region) }.expect("KVM changes a slot");
    }
}

/// Whether a memslot is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// It is, with its log on.
    Logged,
    /// It is not.
    Gone,
}

/// Room for so many pages, wherever they begin.
fn mapping(pages: u64) -> MmapRegion {
    let bytes = usize::try_from(pages * PAGE_SIZE).expect("a size");
    MmapRegion::new(bytes + HUGE).expect("memory for the guest")
}

/// What of a mapping begins as the guest's memory does in a huge page: the kernel may map it so.
fn aligned(mapping: &MmapRegion) -> MmapRegion {
    let begin = mapping.as_ptr().wrapping_add(mapping.as_ptr().align_offset(HUGE));
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    #[allow(unsafe_code)]
    // SAFETY: M: it is inside the mapping, which is dropped after it and unmaps it.
    let region = unsafe { MmapRegion::build_raw(begin, mapping.size() - HUGE, access, flags) };
    region.expect("a page begins there")
}

fn slot(id: u16, first: u64, memory: &MmapRegion) -> Memslot {
    let range = GfnRange::new(Gfn::new(first), memory.size() as u64 / PAGE_SIZE).expect("a range");
    let (space, access) = (AddressSpace(0), SlotAccess::ReadWrite);
    Memslot::new(SlotId(id), space, range, memory.as_ptr(), access).expect("a slot")
}

fn set(vm: &VmFd, slot: &Memslot) {
    #[allow(unsafe_code)]
    // SAFETY: S: the memory behind it is there as long as the VM.
    unsafe { vm.set_user_memory_region(slot.as_kvm()) }.expect("KVM makes a slot");
}

fn vcpu(kvm: &Kvm, vm: &VmFd, id: u64, walk: &Walk, log: &mut KvmLog) -> Vcpu {
    let fd = vm.create_vcpu(id).expect("KVM makes a vCPU");
    program::begin(kvm, vm, &fd, walk);
    log.add_vcpu(&fd).expect("its ring is mapped");
    Vcpu::new(fd, log.reaper())
}
