//! The VM: what its CPUs have in common.

use crate::handover::Handover;
use crate::host::{Host, memory_at};
use crate::second::Second;
use crate::way::Way;
use core::sync::atomic::AtomicU64;
use vellum_mmu::{LogMode, Mmu, SlotSpec};
use vellum_pte::{AddressSpace, Gfn, GfnRange, PAGE_SIZE, Pfn, SlotId, Stage2};

/// Where all of it is.
pub(crate) const SPACE: AddressSpace = AddressSpace::NORMAL;
/// The guest's memory.
pub(crate) const MEMORY: SlotId = SlotId(0);
const DEVICES: SlotId = SlotId(1);
/// The interrupt controller and the serial line, where QEMU's `virt` has them.
const DEVICES_FIRST: u64 = 0x0800_0000;
const DEVICES_BYTES: u64 = 0x0200_0000;

/// A VM with memory, devices, and one CPU or two.
pub(crate) struct Vm {
    /// Its second stage.
    pub(crate) mmu: Mmu<Stage2, Host>,
    /// How its writes are tracked.
    pub(crate) way: Way,
    /// Its memory's pages, as the guest counts them.
    pub(crate) pages: GfnRange,
    /// Its second CPU.
    pub(crate) second: Second,
    /// Faults that went to the library.
    pub(crate) faults: AtomicU64,
    /// Writes of registers that were made in the guest's place.
    pub(crate) register_writes: AtomicU64,
}

impl Vm {
    /// The VM that `handover` describes: its memory, logged, and its devices.
    pub(crate) fn new(handover: &Handover) -> Self {
        let mmu = Mmu::new(Host::new(handover), handover.way.config()).expect("memory for a VM");
        let pages = range(handover.guest_first, handover.guest_bytes);
        let devices = SlotSpec {
            memory: memory_at(DEVICES_FIRST),
            ..SlotSpec::new(DEVICES, SPACE, range(DEVICES_FIRST, DEVICES_BYTES))
        };
        let memory = SlotSpec {
            memory: memory_at(handover.host_first),
            log: LogMode::On,
            ..SlotSpec::new(MEMORY, SPACE, pages)
        };
        mmu.create_slot(devices).expect("the first slot");
        mmu.create_slot(memory).expect("the second slot");
        Self {
            mmu,
            way: handover.way,
            pages,
            second: Second::new(handover.cpus),
            faults: AtomicU64::new(0),
            register_writes: AtomicU64::new(0),
        }
    }

    /// Its root table.
    pub(crate) fn root(&self) -> Pfn {
        self.mmu.root(SPACE).expect("every VM has its first space")
    }
}

fn range(first: u64, bytes: u64) -> GfnRange {
    GfnRange::new(Gfn::new(first / PAGE_SIZE), bytes / PAGE_SIZE).expect("in range")
}
