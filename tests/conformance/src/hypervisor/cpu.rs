//! CPUs: what the suite's operations need of one, and the hypervisor's own.

use super::tlb::{Answer, CachedWrite, Tlb};
use super::{Hypervisor, Memory, RUNNING, locked, pages_of};
use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::port::Port;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::Page;
use vellum_mmu::{Access, AccessedBits, Mmu, Outcome, Vcpu};
use vellum_pte::{
    AddressSpace, ClosedTable, Entry, Format, Gate, Gfn, Gpa, Leaf, Level, PAGE_SIZE, Pfn, Raw,
    Write,
};

/// Why an access did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No memslot is there.
    Unmapped,
    /// The memslot or what is behind it is read-only.
    ReadOnly,
    /// No memory is behind the page.
    NoBacking,
    /// The memory behind it is being changed.
    Retry,
    /// No memory for a table.
    OutOfMemory,
}

/// What a CPU does where memory is being changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnRetry {
    /// Says [`Refused::Retry`].
    GivesUp,
    /// Tries again until it may go on.
    Waits,
}

/// A CPU: eight aligned bytes at a time, in one address space.
pub trait Cpu {
    /// What it does where memory is being changed.
    fn on_retry(&self) -> OnRetry;

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
    fn on_retry(&self) -> OnRetry {
        OnRetry::Waits
    }

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
        no_correct_software => panic!("{no_correct_software}"),
    }
}

/// A CPU of the [`Hypervisor`]: keeps each translation, and the place of each last-level table, until
/// a shoot-down or a fault. On Arm a fault is not enough: there a refusal stays until it is flushed.
pub struct VirtualCpu<'m, F: Format, M: Memory> {
    mmu: &'m Mmu<F, Hypervisor<M>>,
    vcpu: Vcpu<'m, F, Hypervisor<M>>,
    space: AddressSpace,
    number: usize,
    on_retry: OnRetry,
}

/// So many faults in a row for one access are too many.
const FOR_EVER: usize = 10_000;

/// An access that did not come through.
enum Stopped {
    /// The translation that it met refuses it.
    Refused,
    /// There is no translation.
    Absent,
    /// The entry changed under the walk.
    Changed,
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
        Ok(Self { mmu, vcpu: mmu.vcpu()?, space, number, on_retry: OnRetry::Waits })
    }

    /// One that does so where memory is being changed.
    #[must_use]
    pub fn that(self, on_retry: OnRetry) -> Self {
        Self { on_retry, ..self }
    }

    /// Does `act` to the frame behind `gfn`: by the TLB if it can, else by the tables, else after a
    /// fault. No shoot-down comes between the translation and the act.
    fn access<T>(
        &mut self,
        gfn: Gfn,
        access: Access,
        act: impl Fn(&Hypervisor<M>, Pfn) -> T,
    ) -> Result<T, Refused> {
        let hypervisor = self.mmu.embedder();
        let mut faults = 0;
        while faults < FOR_EVER {
            let mut tlb = locked(&hypervisor.tlbs[self.number]);
            match self.translate(&mut tlb, gfn, access) {
                Ok(frame) => return Ok(act(hypervisor, frame)),
                Err(Stopped::Changed) => continue,
                // Arm keeps a translation that refuses (Arm ARM D8.16).
                Err(Stopped::Refused) if is_arm::<F>() => {}
                Err(_) => hypervisor.memory.unlimited(|| tlb.forget(gfn)),
            }
            drop(tlb);
            faults += self.fault(gfn, access)?;
        }
        panic!("it faults for ever at {gfn}");
    }

    /// Asks the library; gives how much nearer that is to for ever.
    fn fault(&mut self, gfn: Gfn, access: Access) -> Result<usize, Refused> {
        RUNNING.set(self.number);
        match (self.vcpu.fault(self.space, gfn.gpa(), access), self.on_retry) {
            (Outcome::Mapped | Outcome::Spurious, _) => Ok(1),
            (Outcome::Retry, OnRetry::GivesUp) => Err(Refused::Retry),
            (Outcome::Retry, OnRetry::Waits) => {
                std::thread::yield_now();
                Ok(0)
            }
            (Outcome::Mmio, _) => Err(Refused::Unmapped),
            (Outcome::NoBacking, _) => Err(Refused::NoBacking),
            (
                Outcome::ReadOnly | Outcome::Emulate | Outcome::Denied(_) | Outcome::Misconfigured,
                _,
            ) => Err(Refused::ReadOnly),
            (Outcome::OutOfMemory, _) => Err(Refused::OutOfMemory),
        }
    }

    fn translate(&self, tlb: &mut Tlb, gfn: Gfn, access: Access) -> Result<Pfn, Stopped> {
        match tlb.answer(self.space, gfn, access) {
            Answer::Passes(frame) => Ok(frame),
            Answer::Refuses if is_arm::<F>() => Err(Stopped::Refused),
            Answer::Refuses | Answer::Unknown => self.walk(tlb, gfn, access),
        }
    }

    /// What the tables say, cached. Stores pass if every entry on the way lets them.
    fn walk(&self, tlb: &mut Tlb, gfn: Gfn, access: Access) -> Result<Pfn, Stopped> {
        let known = tlb.table(self.space, gfn);
        let known = known.map(|(table, write)| (table, Level::L1, write));
        let (mut table, mut level, mut write) =
            known.or_else(|| self.root(gfn)).ok_or(Stopped::Absent)?;
        loop {
            let raw = self.entry(table, level, gfn);
            match F::decode(raw, level) {
                Entry::Absent | Entry::Frozen { .. } => return Err(Stopped::Absent),
                // Parked: for hardware it is not there.
                Entry::Table { gate: Gate::Closed, .. } if is_arm::<F>() => {
                    return Err(Stopped::Absent);
                }
                Entry::Table { child, gate, .. } => {
                    write = if gate == Gate::Open { write } else { CachedWrite::Refused };
                    self.use_table((table, level, gfn), raw)?;
                    (table, level) = (child, level.below().ok_or(Stopped::Absent)?);
                    if level == Level::L1 {
                        let keep = || tlb.keep_table((self.space, gfn), table, write);
                        self.mmu.embedder().memory.unlimited(keep);
                    }
                }
                Entry::Leaf(leaf) => {
                    return self.at_leaf(tlb, (table, level, gfn), (raw, leaf), access, write);
                }
            }
        }
    }

    /// Where a walk begins: one of the root tables, if there is one for the address.
    fn root(&self, gfn: Gfn) -> Option<(Pfn, Level, CachedWrite)> {
        let shape = self.mmu.root_shape();
        let place = gfn.get() >> (u32::from(shape.level.get()) * F::INDEX_BITS);
        let first = self.mmu.root(self.space).filter(|_| place < u64::from(shape.tables))?;
        Some((Pfn::new(first.get() + place), shape.level, CachedWrite::Allowed))
    }

    fn index(level: Level, gfn: Gfn) -> usize {
        let index = gfn.get() >> (u32::from(level.get() - 1) * F::INDEX_BITS) & 511;
        usize::try_from(index).expect("nine bits")
    }

    fn entry(&self, table: Pfn, level: Level, gfn: Gfn) -> Raw {
        let bank = locked(&self.mmu.embedder().bank);
        Raw(bank.entry(table, Self::index(level, gfn)).load(Ordering::Acquire))
    }

    /// What hardware writes to an entry. Says whether the entry still was `old`.
    fn update(&self, (table, level, gfn): (Pfn, Level, Gfn), old: Raw, new: Raw) -> bool {
        let bank = locked(&self.mmu.embedder().bank);
        let entry = bank.entry(table, Self::index(level, gfn));
        entry.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn sets_bits(&self) -> bool {
        self.mmu.embedder().accessed == AccessedBits::Set
    }

    /// x86 sets A at every level.
    fn use_table(&self, at: (Pfn, Level, Gfn), raw: Raw) -> Result<(), Stopped> {
        let sets = self.sets_bits() && !is_arm::<F>();
        let done = !sets || self.update(at, raw, F::set_accessed(raw));
        if done { Ok(()) } else { Err(Stopped::Changed) }
    }

    /// Keeps what was found, and says whether the access passes. Where a store is what sets D, stores
    /// pass what has it; on Arm, D is the permission.
    fn at_leaf(
        &self,
        tlb: &mut Tlb,
        at: (Pfn, Level, Gfn),
        (raw, leaf): (Raw, Leaf),
        access: Access,
        above: CachedWrite,
    ) -> Result<Pfn, Stopped> {
        if is_arm::<F>() && !self.sets_bits() && !leaf.accessed {
            return Err(Stopped::Absent);
        }
        let (_, level, gfn) = at;
        let open = above == CachedWrite::Allowed && leaf.write == Write::Storable;
        let leaf = match open || access != Access::Write {
            true if self.sets_bits() => self.use_leaf(at, (raw, leaf), access)?,
            _ => leaf,
        };
        let dirty = leaf.dirty || !self.sets_bits() && !is_arm::<F>();
        let write = if open && dirty { CachedWrite::Allowed } else { CachedWrite::Refused };
        self.check_sizes(tlb, gfn, level);
        let keep = || tlb.keep_leaf((self.space, gfn), level, leaf.frame, write);
        self.mmu.embedder().memory.unlimited(keep);
        let within = gfn.get() & (pages_of(level) - 1);
        let passes = access != Access::Write || write == CachedWrite::Allowed;
        if passes { Ok(Pfn::new(leaf.frame.get() + within)) } else { Err(Stopped::Refused) }
    }

    /// Sets A, and D for a store.
    fn use_leaf(
        &self,
        at: (Pfn, Level, Gfn),
        (raw, leaf): (Raw, Leaf),
        access: Access,
    ) -> Result<Leaf, Stopped> {
        let dirty = leaf.dirty || access == Access::Write;
        let used = Leaf { accessed: true, dirty, ..leaf };
        let updated = self.update(at, raw, F::encode(Entry::Leaf(used), at.1));
        if updated { Ok(used) } else { Err(Stopped::Changed) }
    }

    /// Any CPU may walk at any time: no TLB may hold another size. One that is busy is passed over.
    fn check_sizes(&self, mine: &Tlb, gfn: Gfn, level: Level) {
        mine.check_size::<F>(self.space, gfn, level);
        for tlb in &self.mmu.embedder().tlbs {
            match tlb.try_lock() {
                Ok(tlb) => tlb.check_size::<F>(self.space, gfn, level),
                Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => {}
            }
        }
    }
}

/// Whether the processor is one whose tables carry no permissions, and which keeps a refusal.
const fn is_arm<F: Format>() -> bool {
    matches!(F::CLOSED_TABLE, ClosedTable::Parked)
}

impl<F: Format, M: Memory> Cpu for VirtualCpu<'_, F, M> {
    fn on_retry(&self) -> OnRetry {
        self.on_retry
    }

    fn store(&mut self, at: Gpa, value: u64) -> Result<(), Refused> {
        let offset = aligned(at);
        self.access(at.gfn(), Access::Write, |hypervisor, frame| {
            let store = || locked(&hypervisor.host).store(frame, offset, &value.to_le_bytes());
            hypervisor.memory.unlimited(store);
        })
    }

    fn load(&mut self, at: Gpa) -> Result<u64, Refused> {
        let offset = usize::try_from(aligned(at)).expect("in the page");
        self.access(at.gfn(), Access::Read, |hypervisor, frame| {
            let page: Page = locked(&hypervisor.host).load(frame);
            u64::from_le_bytes(page[offset..offset + 8].try_into().expect("eight"))
        })
    }
}

fn aligned(at: Gpa) -> u64 {
    assert!(at.get().is_multiple_of(8) && at.offset() < PAGE_SIZE, "aligned");
    at.offset()
}
