//! CPUs: what the suite's operations need of one, and the hypervisor's own.

use super::{CachedWrite, Hypervisor, Memory, locked};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::port::Port;
use vellum_machine::walker::WalkedFormat;
use vellum_mmu::{Access, Mmu, Outcome, Vcpu};
use vellum_pte::{AddressSpace, Entry, Format, Gate, Gfn, Gpa, Level, PAGE_SIZE, Pfn, Write};

/// Why an access did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No memslot is there.
    Unmapped,
    /// The memslot is read-only.
    ReadOnly,
    /// No memory for a table.
    OutOfMemory,
}

/// A CPU: eight aligned bytes at a time, in one address space.
pub trait Cpu {
    /// Stores `value` at `at`.
    ///
    /// # Errors
    /// [`Refused`]; nothing was written.
    fn store(&mut self, at: Gpa, value: u64) -> Result<(), Refused>;

    /// What is at `at`.
    ///
    /// # Errors
    /// [`Refused`].
    fn load(&mut self, at: Gpa) -> Result<u64, Refused>;
}

impl<F: WalkedFormat> Cpu for Port<'_, F> {
    fn store(&mut self, at: Gpa, value: u64) -> Result<(), Refused> {
        Bus::store(self, at, Width::Double, value).map_err(refused)
    }

    fn load(&mut self, at: Gpa) -> Result<u64, Refused> {
        Bus::load(self, at, Width::Double).map_err(refused)
    }
}

fn refused(error: BusError) -> Refused {
    match error {
        BusError::Unmapped(_) => Refused::Unmapped,
        BusError::ReadOnly(_) => Refused::ReadOnly,
        BusError::OutOfMemory(_) => Refused::OutOfMemory,
        BusError::Misconfigured(at) => panic!("the tables are misconfigured at {at}"),
        BusError::TlbConflict(at) => panic!("two sizes of page for {at}"),
    }
}

/// A CPU of the [`Hypervisor`]: keeps each translation until a shoot-down or a fault.
pub struct VirtualCpu<'m, F: Format, M: Memory> {
    mmu: &'m Mmu<F, Hypervisor<M>>,
    vcpu: Vcpu<'m, F, Hypervisor<M>>,
    space: AddressSpace,
    number: usize,
}

impl<'m, F: Format, M: Memory> VirtualCpu<'m, F, M> {
    /// The `number`-th CPU, for good in `space`.
    ///
    /// # Errors
    /// The library has no memory for a vCPU.
    pub fn new(
        mmu: &'m Mmu<F, Hypervisor<M>>,
        number: usize,
        space: AddressSpace,
    ) -> Result<Self, vellum_mmu::OutOfMemory> {
        Ok(Self { mmu, vcpu: mmu.vcpu()?, space, number })
    }

    /// Translates for `access`, by the TLB if it can, else by the tables, else with a fault.
    fn translate(&mut self, gfn: Gfn, access: Access) -> Result<Pfn, Refused> {
        loop {
            if let Some(frame) = self.cached(gfn, access).or_else(|| self.walk(gfn, access)) {
                return Ok(frame);
            }
            match self.vcpu.fault(self.space, gfn.gpa(), access) {
                Outcome::Mapped | Outcome::Spurious | Outcome::Retry => {}
                Outcome::Mmio | Outcome::NoBacking => return Err(Refused::Unmapped),
                Outcome::ReadOnly => return Err(Refused::ReadOnly),
                Outcome::OutOfMemory => return Err(Refused::OutOfMemory),
            }
        }
    }

    fn hypervisor(&self) -> &'m Hypervisor<M> {
        self.mmu.embedder()
    }

    fn cached(&self, gfn: Gfn, access: Access) -> Option<Pfn> {
        let tlb = locked(&self.hypervisor().tlb);
        let (frame, write) = tlb.get(&(self.number, self.space, gfn))?;
        passes(access, *write).then_some(*frame)
    }

    /// What the tables say, cached. Stores pass if every entry on the way lets them.
    fn walk(&self, gfn: Gfn, access: Access) -> Option<Pfn> {
        let mut table = self.mmu.root(self.space)?;
        let mut level = self.mmu.root_shape().level;
        let mut write = CachedWrite::Allowed;
        loop {
            match F::decode(self.entry(table, level, gfn)?, level) {
                Entry::Absent | Entry::Frozen { .. } => return None,
                Entry::Table { child, gate, .. } => {
                    write = if gate == Gate::Open { write } else { CachedWrite::Refused };
                    table = child;
                    level = level.below()?;
                }
                Entry::Leaf(leaf) => {
                    let storable = leaf.write == Write::Storable;
                    write = if storable { write } else { CachedWrite::Refused };
                    return self.cache(gfn, leaf.frame, write, access);
                }
            }
        }
    }

    fn entry(&self, table: Pfn, level: Level, gfn: Gfn) -> Option<vellum_pte::Raw> {
        let index = gfn.get() >> (u32::from(level.get() - 1) * F::INDEX_BITS) & 511;
        locked(&self.hypervisor().bank).entry(table, usize::try_from(index).ok()?)
    }

    fn cache(&self, gfn: Gfn, frame: Pfn, write: CachedWrite, access: Access) -> Option<Pfn> {
        let hypervisor = self.hypervisor();
        let entry = ((self.number, self.space, gfn), (frame, write));
        hypervisor.memory.unlimited(|| locked(&hypervisor.tlb).extend([entry]));
        passes(access, write).then_some(frame)
    }

    fn host(&mut self, at: Gpa, access: Access) -> Result<u64, Refused> {
        assert!(at.get().is_multiple_of(8) && at.offset() < PAGE_SIZE, "aligned");
        Ok(self.translate(at.gfn(), access)?.address() + at.offset())
    }
}

fn passes(access: Access, write: CachedWrite) -> bool {
    access != Access::Write || write == CachedWrite::Allowed
}

impl<F: Format, M: Memory> Cpu for VirtualCpu<'_, F, M> {
    fn store(&mut self, at: Gpa, value: u64) -> Result<(), Refused> {
        let host = self.host(at, Access::Write)?;
        let hypervisor = self.hypervisor();
        hypervisor.memory.unlimited(|| hypervisor.poke(host, &value.to_le_bytes()));
        Ok(())
    }

    fn load(&mut self, at: Gpa) -> Result<u64, Refused> {
        let host = self.host(at, Access::Read)?;
        Ok(self.hypervisor().peek(Gpa::new(host)))
    }
}
