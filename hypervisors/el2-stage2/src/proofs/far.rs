//! A VM of a given number of address bits, with a slot far up in them.

use crate::cpu::El2;
use alloc::vec;
use alloc::vec::Vec;
use checks::{Lab, Vm};
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::{Config, LogMode, MemoryId, Protect, SlotSpec};
use vellum_pte::{Gfn, GfnRange, Gpa, Level, PAGE_SHIFT, PAGE_SIZE, SlotId};
use vm::SPACE;

const FAR: SlotId = SlotId(2);
/// Its size: two tables of leaves.
pub(super) const FAR_PAGES: u64 = 1024;
/// Behind the memory that the other slots have.
const MEMORY: u64 = 16 << 20;

pub(super) struct Far {
    pub(super) vm: Vm<El2>,
    range: GfnRange,
}

impl Far {
    /// With the slot at the very end of `bits` of address, logged, in leaves of 4 KiB.
    pub(super) fn logged(lab: &Lab<El2>, bits: u32) -> Self {
        Self::new(lab, bits, Level::L1, LogMode::On)
    }

    /// The same without a log, and with leaves up to `largest`.
    pub(super) fn unlogged(lab: &Lab<El2>, bits: u32, largest: Level) -> Self {
        Self::new(lab, bits, largest, LogMode::Off)
    }

    fn new(lab: &Lab<El2>, bits: u32, largest: Level, log: LogMode) -> Self {
        let config = Config { address_bits: Some(bits), ..lab.config() };
        let vm = Vm::new(lab.host().with_leaves(largest), config, LogMode::On);
        let range = GfnRange::new(Gfn::new((1 << (bits - PAGE_SHIFT)) - FAR_PAGES), FAR_PAGES);
        let spec = SlotSpec::new(FAR, SPACE, range.expect("in range"));
        let spec = SlotSpec { memory: MemoryId(MEMORY), log, ..spec };
        vm.mmu.create_slot(spec).expect("a slot within reach");
        Self { vm, range: spec.range }
    }

    pub(super) fn page(&self, index: u64) -> Gpa {
        Gpa::new((self.range.first().get() + index) * PAGE_SIZE)
    }

    pub(super) fn harvest(&self, protect: Protect) -> Vec<u64> {
        let region = Region { slot: FAR, space: SPACE, range: self.range };
        let mut round = PageSet::new(&Layout::new(vec![region]).expect("one region"));
        let region = &mut round.regions_mut()[0];
        self.vm.mmu.take_dirty(FAR, protect, region).expect("a logged slot");
        region.pages().collect()
    }
}
