//! A VM and its model, side by side: each operation is done to both, and what they answer is the
//! same, or the scene says where they part.

mod host;
mod log;
mod memory;
mod op;
mod restrictions;
mod rings;
mod slots;

pub use host::{BoardMemory, Host};
use op::Leaves;
pub use op::{Fixed, Op};

use crate::hypervisor::{Cpu, Home};
use crate::model::{Model, Refusal, RingShape, Rings, Shape};
use restrictions::Listening;
use std::collections::BTreeMap;
use vellum_mmu::{Again, CounterSnapshot, DirtyBits, Embedder, Event, LogError, Mmu, SubPageForm};
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Gpa};

/// Where a scene plays.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// The page that offsets count from.
    pub base: u64,
    /// Slots begin and end within so many pages from it.
    pub span: u64,
    /// How many bits of guest address the tables translate.
    pub address_bits: u32,
    /// Pages of the largest leaf that the host's memory allows.
    pub grain: u64,
}

impl Ground {
    /// A little over three last-level tables, and no table's first page, no word's first.
    #[must_use]
    pub const fn of_bits(address_bits: u32) -> Self {
        Self { base: 0x8_0000 + 37, span: 1700, address_bits, grain: 1 }
    }

    fn shape(self, form: SubPageForm) -> Shape {
        let limit = Gfn::new(1 << (self.address_bits - 12));
        Shape { spaces: 2, limit, grain: self.grain, form }
    }
}

/// How exact harvests are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exactness {
    /// As the model's, but for what no vCPU wrote.
    Exact,
    /// Memory ran out: whole groups of 64 may be named where one page of them is dirty.
    ByGroups,
}

/// The library ran out of memory; the operation was not done, to either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// The VM and its model.
pub struct Scene<'m, F: Format, E: Embedder, C> {
    mmu: &'m Mmu<F, E>,
    host: &'m dyn Host,
    cpus: Vec<(AddressSpace, C)>,
    model: Model,
    listening: BTreeMap<u16, Listening<'m, F, E>>,
    ground: Ground,
    /// How exact harvests have to be.
    pub exactness: Exactness,
    /// How the library logs: where by D bits, whoever looks into a log collects them.
    dirty_bits: DirtyBits,
    /// Called before each call to the library.
    pub before_call: fn(),
    /// Called after it.
    pub after_call: fn(),
}

impl<'m, F: Format, E: Embedder, C: Cpu> Scene<'m, F, E, C> {
    /// A VM without slots, of two address spaces; each CPU stays in its own.
    pub fn new(
        mmu: &'m Mmu<F, E>,
        host: &'m dyn Host,
        cpus: Vec<(AddressSpace, C)>,
        ground: Ground,
    ) -> Self {
        let (before_call, after_call): (fn(), fn()) = (|| (), || ());
        let model = Model::new(ground.shape(mmu.sub_page_form()));
        let (listening, exactness) = (BTreeMap::new(), Exactness::Exact);
        let dirty_bits = DirtyBits::Unused;
        Self {
            mmu,
            host,
            cpus,
            model,
            listening,
            ground,
            exactness,
            dirty_bits,
            before_call,
            after_call,
        }
    }

    /// Its writes are logged by D bits, or not, and its vCPUs have rings of a shape, or not.
    pub fn logs_by(&mut self, dirty_bits: DirtyBits, rings: Option<RingShape>) {
        self.dirty_bits = dirty_bits;
        self.model.rings = rings.map(|shape| Rings::new(shape, dirty_bits, self.cpus.len()));
    }

    /// Does `op` to both.
    ///
    /// # Errors
    /// Only [`OutOfMemory`].
    ///
    /// # Panics
    /// The two differ.
    pub fn apply(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        let keeps = op.keeps_leaves();
        self.note_leaves(keeps);
        let done = self.apply_unheard(op);
        self.note_leaves(keeps);
        self.compare_heard();
        done
    }

    fn note_leaves(&mut self, after: Leaves) {
        if after == Leaves::MayChange {
            self.model.may_have_protected();
        }
    }

    fn apply_unheard(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::Create { .. } | Op::Change { .. } | Op::Delete(_) => self.apply_to_slots(op),
            Op::SplitHuge { .. } | Op::RecoverHuge(_) => self.apply_to_slots(op),
            Op::Store { .. } | Op::StoreBytes { .. } | Op::Walk { .. } => self.apply_to_memory(op),
            Op::Load { .. } | Op::DeviceWrite { .. } => self.apply_to_memory(op),
            Op::Invalidate { .. } | Op::Age { .. } => self.apply_to_memory(op),
            Op::EnableTracking | Op::Listen(..) | Op::Unlisten(_) => self.apply_to_restrictions(op),
            Op::Track { .. } | Op::Untrack { .. } => self.apply_to_restrictions(op),
            Op::Activate | Op::AllowNested => self.apply_to_restrictions(op),
            Op::SetMaps { .. } | Op::GetMaps { .. } => self.apply_to_restrictions(op),
            Op::HarvestRings | Op::ResetRings(_) | Op::EmptyRings(_) => self.apply_to_rings(op),
            Op::Flood { .. } | Op::Leave(_) | Op::Forge { .. } => self.apply_to_rings(op),
            _ => self.apply_to_log(op),
        }
    }

    /// Harvests everything, and compares all memory that was written.
    ///
    /// # Panics
    /// The two differ.
    pub fn finish(&mut self) {
        self.empty_rings(Again::Pages);
        self.take_all();
        self.assert_nothing_owed();
        self.compare_watched();
        let written = self.host.written();
        let near = self.ground.base..self.ground.base + self.ground.span.min(4096);
        let homes = self.model.contents.written().into_iter().chain(written).chain(near.map(Home));
        for home in homes {
            let held = self.host.page(home);
            assert!(held == self.model.contents.page(home), "the content of {home:x?}");
        }
    }

    fn library<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        (self.before_call)();
        let answer = call(self);
        (self.after_call)();
        answer
    }

    /// Calls the library for something that leaves the tables as they are.
    fn library_that_changes_no_entry<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.mmu.counters();
        let answer = self.library(call);
        self.assert_untouched(&before);
        answer
    }

    /// Calls the library for a look into a log.
    fn library_that_looks<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        match self.dirty_bits {
            DirtyBits::Unused => self.library_that_changes_no_entry(call),
            DirtyBits::Scanned | DirtyBits::Logged => self.library(call),
        }
    }

    /// Whether nothing was done to the tables since.
    fn assert_untouched(&self, since: &CounterSnapshot) {
        let now = self.mmu.counters();
        for event in TOUCHING {
            assert_eq!(now.since(since, event), 0, "{event:?} by what should change nothing");
        }
    }

    fn gfn(&self, offset: u64) -> Gfn {
        Gfn::new(self.ground.base + offset)
    }

    fn range(&self, offset: u64, pages: u64) -> GfnRange {
        GfnRange::new(self.gfn(offset), pages).expect("in range")
    }

    fn address(&self, page: u64, word: u64) -> Gpa {
        Gpa::new(self.gfn(page).gpa().get() + 8 * word)
    }
}

/// What happens when entries change.
const TOUCHING: [Event; 8] = [
    Event::Mapped,
    Event::Opened,
    Event::Linked,
    Event::Split,
    Event::Recovered,
    Event::Settled,
    Event::Closed,
    Event::ShootDown,
];

fn of_log(error: LogError) -> Refusal {
    match error {
        LogError::NoSlot(_) => Refusal::NoSlot,
        LogError::NotLogged(_) => Refusal::NotLogged,
        LogError::Mismatch { .. } | LogError::OutOfMemory(_) => panic!("{error}"),
    }
}
