//! Memory as it is to a hypervisor that does an instruction in place of the processor.

use crate::bus::{Bus, BusError, Width};
use crate::emulation::EmulatedStore;
use vellum_pte::{Gfn, Gpa};

/// A bus whose stores are emulated ones. Loads are as ever: nobody refuses them.
pub(super) struct Emulator<'a, B> {
    pub(super) bus: &'a mut B,
    /// The instruction.
    pub(super) by: EmulatedStore,
}

impl<B: Bus> Bus for Emulator<'_, B> {
    fn load(&mut self, gpa: Gpa, width: Width) -> Result<u64, BusError> {
        self.bus.load(gpa, width)
    }

    fn store(&mut self, gpa: Gpa, width: Width, value: u64) -> Result<(), BusError> {
        self.bus.emulate_store(self.by, gpa, width, value)
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        expected: u64,
        new: u64,
    ) -> Result<u64, BusError> {
        self.bus.emulate_compare_exchange(self.by, gpa, width, (expected, new))
    }

    fn fetch(&mut self, gfn: Gfn, into: &mut [u32; 1024]) -> Result<(), BusError> {
        self.bus.fetch(gfn, into)
    }

    fn epoch(&self) -> u64 {
        self.bus.epoch()
    }
}
