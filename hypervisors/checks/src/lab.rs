//! What every check begins with: a fresh VM.

use alloc::vec::Vec;
use core::marker::PhantomData;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::{AccessedBits, Config, LogMode, MemoryId, Mmu, Protect, SlotSpec};
use vellum_pte::{Gfn, GfnRange, Gpa, Level, PAGE_SIZE, SlotId};
use vm::{Guest, GuestMemory, Host, PROGRAM_BYTES, Processor, Ran, SPACE};

/// The slot that the guest's program is in.
const PROGRAM: SlotId = SlotId(0);
/// The slot that the guest's data is in: from 2 MiB on, so that huge leaves fit.
pub const DATA: SlotId = SlotId(1);
const DATA_FIRST: Gfn = Gfn::new(512);
/// Its size in pages: 8 MiB.
pub const DATA_PAGES: u64 = 2048;

/// The address of a page of the data.
#[must_use]
pub fn page(index: u64) -> Gpa {
    Gpa::new((DATA_FIRST.get() + index) * PAGE_SIZE)
}

/// Where VMs are made.
pub struct Lab<P> {
    memory: GuestMemory,
    processor: PhantomData<fn() -> P>,
}

impl<P: Processor> Lab<P> {
    /// With that memory for the guest of the VM that is being looked at, 16 MiB at least.
    #[must_use]
    pub const fn new(memory: GuestMemory) -> Self {
        Self { memory, processor: PhantomData }
    }

    /// A host for a VM with leaves of 4 KiB, its guest's memory cleared and the program in it.
    #[must_use]
    pub fn host(&self) -> Host<P> {
        self.memory.clear();
        P::lay_out(self.memory);
        Host::new(self.memory)
    }

    /// A setting that uses no dirty bits.
    #[must_use]
    pub fn config(&self) -> Config {
        let features = P::features();
        let accessed =
            if features.accessed_dirty { AccessedBits::Set } else { AccessedBits::NotSet };
        Config { accessed, sub_pages: features.sub_pages, ..Config::default() }
    }

    /// A VM with 4 KiB leaves whose data is logged.
    #[must_use]
    pub fn logged(&self) -> Vm<P> {
        Vm::new(self.host(), self.config(), LogMode::On)
    }

    /// A VM with leaves up to 2 MiB whose data is logged as `log` says.
    #[must_use]
    pub fn huge(&self, log: LogMode) -> Vm<P> {
        Vm::new(self.host().with_leaves(Level::L2), self.config(), log)
    }
}

/// A VM with the guest's program and its data mapped on demand.
pub struct Vm<P: Processor> {
    /// The library's side.
    pub mmu: Mmu<P::Format, Host<P>>,
}

impl<P: Processor> Vm<P> {
    /// A VM on `host` whose data is logged as `log` says.
    #[must_use]
    pub fn new(host: Host<P>, config: Config, log: LogMode) -> Self {
        let mmu = Mmu::new(host, config).expect("memory for a VM");
        mmu.create_slot(program()).expect("the first slot");
        mmu.create_slot(SlotSpec { log, ..data() }).expect("the second slot");
        Self { mmu }
    }

    /// A vCPU of it.
    #[must_use]
    pub fn guest(&self) -> Guest<'_, P> {
        Guest::new(&self.mmu).expect("memory for a vCPU")
    }

    /// The data's dirty pages since the last time, by number.
    pub fn harvest(&self, protect: Protect) -> Vec<u64> {
        let mut round = PageSet::new(&layout());
        let region = &mut round.regions_mut()[0];
        self.mmu.take_dirty(DATA, protect, region).expect("a logged slot");
        region.pages().collect()
    }

    /// The data's pages that were accessed since the last time, by number.
    pub fn aged(&self) -> Vec<u64> {
        let mut accessed = PageSet::new(&layout());
        let region = &mut accessed.regions_mut()[0];
        self.mmu.age(DATA, data().range, region).expect("a slot");
        region.pages().collect()
    }

    /// Shoot-downs so far.
    #[must_use]
    pub fn shoot_downs(&self) -> u64 {
        self.mmu.embedder().shoot_downs()
    }

    /// What is in the guest's memory at `gpa`.
    #[must_use]
    pub fn read(&self, gpa: Gpa) -> u64 {
        self.mmu.embedder().memory().read(gpa).expect("inside the guest's memory")
    }
}

/// The data's slot, not logged.
#[must_use]
pub fn data() -> SlotSpec {
    let range = GfnRange::new(DATA_FIRST, DATA_PAGES).expect("in range");
    SlotSpec { memory: MemoryId(DATA_FIRST.get() * PAGE_SIZE), ..SlotSpec::new(DATA, SPACE, range) }
}

/// The layout of the data alone.
#[must_use]
pub fn layout() -> Layout {
    let range = data().range;
    Layout::new(alloc::vec![Region { slot: DATA, space: SPACE, range }]).expect("one region")
}

fn program() -> SlotSpec {
    let range = GfnRange::new(Gfn::new(0), PROGRAM_BYTES / PAGE_SIZE).expect("in range");
    SlotSpec { memory: MemoryId(0), ..SlotSpec::new(PROGRAM, SPACE, range) }
}

/// The guest has done its work.
#[track_caller]
pub fn done(ran: Ran) {
    assert!(matches!(ran, Ran::Done(_)), "the guest was to finish, and ended with {ran:?}");
}

/// Has the guest load from its program. What its instructions and its own page tables want of the
/// second stage is mapped and open then: what follows faults for the data alone.
pub fn settle_in<P: Processor>(guest: &mut Guest<'_, P>) {
    done(guest.load(Gpa::new(0)));
}
