//! The least of a hypervisor, and a guest's driver on its one vCPU.
#![allow(unsafe_code)]

use super::ROOT;
use super::device::{ENTRIES, VALID};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vellum_mmu::*;
use vellum_pte::{
    AddressSpace, Ept, Gfn, GfnRange, Gpa, Level, PAGE_SHIFT, PAGE_SIZE, Pfn, SlotId,
};

pub(crate) const SPACE: AddressSpace = AddressSpace::NORMAL;

pub(crate) type Vm = Mmu<Ept, Host>;

/// Where guest memory is in the host's.
const HOST_BASE: u64 = 0x4_0000;

/// RAM, and which of it the guest has at the moment.
pub(crate) struct Host {
    ram: Mutex<Vec<u8>>,
    regions: Mutex<BTreeMap<SlotId, GfnRange>>,
}

impl Host {
    pub(crate) fn new(pages: u64) -> Self {
        let bytes = usize::try_from(pages * PAGE_SIZE).unwrap_or(0);
        Self { ram: Mutex::new(vec![0; bytes]), regions: Mutex::default() }
    }

    pub(crate) fn add_region(&self, slot: SlotId, range: GfnRange) {
        locked(&self.regions).insert(slot, range);
    }

    pub(crate) fn remove_region(&self, slot: SlotId) {
        locked(&self.regions).remove(&slot);
    }

    /// The host frame behind a guest frame, if the guest has it.
    pub(crate) fn frame(&self, gfn: Gfn) -> Option<Pfn> {
        let there = locked(&self.regions).values().any(|range| range.contains(gfn));
        there.then(|| Pfn::new(HOST_BASE + gfn.get()))
    }

    /// An entry of a table in guest memory.
    pub(crate) fn entry(&self, table: Gfn, index: u64) -> u64 {
        let first = place(Gpa::new(table.gpa().get() + 8 * index));
        let bytes = locked(&self.ram).get(first..first + 8).map(<[u8; 8]>::try_from);
        bytes.and_then(Result::ok).map_or(0, u64::from_le_bytes)
    }

    fn put(&self, gpa: Gpa, bytes: &[u8]) {
        let first = place(gpa);
        locked(&self.ram)[first..first + bytes.len()].copy_from_slice(bytes);
    }
}

fn place(gpa: Gpa) -> usize {
    usize::try_from(gpa.get()).unwrap_or(usize::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Embedder for Host {
    /// From the heap, and never taken back: a hypervisor would.
    fn allocate_frame(&self) -> Option<Frame> {
        let table = Box::leak(Box::new([const { EntryWord::new(0) }; 512]));
        let entries = NonNull::new(table.as_mut_ptr())?;
        // SAFETY: 512 zeroed entries, leaked, and nobody else's. No processor walks them.
        Some(unsafe { Frame::from_raw(Pfn::of_address(entries.as_ptr().addr() as u64), entries) })
    }

    fn release_frame(&self, _: Frame) {}

    /// There is no processor that remembers anything.
    fn shoot_down(&self, _: Scope) {}

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let frame = self.frame(page.gfn)?;
        Some(Backing { frame, write: BackingWrite::Allowed, largest: Level::L1 })
    }

    fn write(&self, page: GuestPage, offset: u64, bytes: &[u8]) -> Result<(), NoBacking> {
        self.put(Gpa::new(page.gfn.gpa().get() + offset), bytes);
        Ok(())
    }
}

/// Marsaglia's generator: the same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    /// A page that is a table, or is going to be one: of both memslots, side by side, and the directory
    /// itself.
    fn table(&mut self) -> Gfn {
        match self.below(40) {
            0 => ROOT,
            number => Gfn::new(256 - 20 + number),
        }
    }

    /// Of any page, also of those that there are not.
    fn entry(&mut self) -> u64 {
        self.below(600) << PAGE_SHIFT | VALID
    }

    fn index(&mut self) -> u64 {
        self.below(ENTRIES)
    }
}

/// The guest's driver: what it does ends as stores of its vCPU.
pub(crate) struct Driver<'m> {
    mmu: &'m Vm,
    vcpu: Vcpu<'m, Ept, Host>,
}

impl<'m> Driver<'m> {
    pub(crate) fn new(mmu: &'m Vm) -> Result<Self, OutOfMemory> {
        Ok(Self { mmu, vcpu: mmu.vcpu()? })
    }

    /// Something that a driver does.
    pub(crate) fn step(&mut self, random: &mut Random) {
        let (table, index) = (random.table().gpa().get(), 8 * random.index());
        let (at, entry) = (table + index, random.entry().to_le_bytes());
        match random.below(16) {
            0..5 => self.store(at, &entry),
            5 => self.store(at, &[0; 8]),
            // By halves, as 32-bit drivers do: the valid bit comes last and goes first.
            6 | 7 => {
                self.store(at, &[0; 4]);
                self.store(at + 4, &entry[4..]);
                self.store(at, &entry[..4]);
            }
            8 => self.store(at + random.below(8), &entry[1..2]),
            // Over the border of two entries, and of two pages: two bytes of one, six of the next.
            9 => self.store(at + 6, &entry),
            10 => self.store(table + PAGE_SIZE - 2, &entry),
            11 => self.store(self.directory(random), &[0; 8]),
            12..14 => {
                let entry = random.table().gpa().get() | VALID;
                self.store(self.directory(random), &entry.to_le_bytes());
            }
            // A string instruction over pages, emulated as one, and a page that is nobody's table.
            14 if random.below(50) == 0 => write(self.mmu, at, &[0; 6000]),
            _ => self.store(Gfn::new(64 + random.below(64)).gpa().get(), &entry),
        }
    }

    /// Few entries, so that the tables they name are shared, and change often.
    fn directory(&self, random: &mut Random) -> u64 {
        ROOT.gpa().get() + 8 * random.below(24)
    }

    /// A store instruction. What is in no memslot goes nowhere.
    fn store(&mut self, at: u64, bytes: &[u8]) {
        let last = at + bytes.len() as u64 - 1;
        let faults = [at, last].map(|byte| self.vcpu.fault(SPACE, Gpa::new(byte), Access::Write));
        if faults.contains(&Outcome::Mmio) {
            return;
        }
        if faults.contains(&Outcome::Emulate) {
            // What this example is about: the exit handler decodes the instruction, and makes its
            // store here. The listeners are called before this returns.
            return write(self.mmu, at, bytes);
        }
        self.mmu.embedder().put(Gpa::new(at), bytes);
    }
}

fn write(mmu: &Vm, at: u64, bytes: &[u8]) {
    match mmu.guest_writer(Origin::Vcpu(0)).write(SPACE, Gpa::new(at), bytes) {
        Ok(()) | Err(WriteError::NoSlot(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Another device writes to memory that happens to be the tables.
pub(crate) fn write_as_device(mmu: &Vm, random: &mut Random) {
    let (table, index) = (random.table().gpa().get(), random.below(PAGE_SIZE - 8));
    let entry = random.entry().to_le_bytes();
    write(mmu, table + index, &entry);
    let named = random.table().gpa().get() | VALID;
    write(mmu, ROOT.gpa().get() + 8 * random.below(24), &named.to_le_bytes());
}
