//! A VM and its model, side by side: each operation is done to both, and what they answer is the
//! same, or the scene says where they part.

use crate::hypervisor::{Cpu, Refused};
use crate::model::{Log, Model, Refusal, Writer};
use std::collections::BTreeSet;
use vellum_memory::guest::Page;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::{
    CreateSlotError, Embedder, Initial, LogError, LogMode, Mmu, Origin, Protect, SlotAccess,
    SlotSpec, WriteError,
};
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Gpa, SlotId};

/// The page number that the operations' offsets count from: no table's first, no word's first.
pub const BASE: u64 = 0x8_0000 + 37;
/// Slots begin and end within so many pages from [`BASE`]: a little over three last-level tables.
pub const SPAN: u64 = 1700;

/// One operation. Slots are named by small numbers, pages by their offset from [`BASE`].
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates a slot.
    Create {
        /// Its name.
        id: u16,
        /// Its address space: 2 does not exist.
        space: u16,
        /// Its first page.
        first: u64,
        /// Its pages.
        pages: u64,
        /// Whether it may be written.
        access: SlotAccess,
        /// Whether it is logged from the start.
        log: LogMode,
    },
    /// Deletes a slot.
    Delete(u16),
    /// Starts a slot's log.
    Start(u16),
    /// Stops it.
    Stop(u16),
    /// A CPU stores.
    Store {
        /// Which.
        cpu: usize,
        /// The page.
        page: u64,
        /// Which eight bytes of it, below 512.
        word: u64,
        /// What.
        value: u64,
    },
    /// A CPU loads.
    Load {
        /// Which.
        cpu: usize,
        /// The page.
        page: u64,
        /// Which eight bytes of it.
        word: u64,
    },
    /// Harvests one slot by pages.
    TakePages(u16),
    /// Harvests all slots without protection, then protects all.
    TakeAll,
    /// Protects all, with no harvest.
    ProtectAll,
    /// Ends that.
    ProtectAllOff,
    /// Gives pages back.
    Owe {
        /// The slot.
        id: u16,
        /// The group of 64.
        word: u64,
        /// Which of it.
        mask: u64,
    },
    /// Writes without a vCPU; may cross pages.
    DeviceWrite {
        /// The address space.
        space: u16,
        /// Where, in bytes from [`BASE`].
        at: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Reports a write that nobody else logs.
    Mark {
        /// The address space.
        space: u16,
        /// The page.
        page: u64,
    },
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
    cpus: Vec<(AddressSpace, C)>,
    model: Model,
    /// How exact harvests have to be.
    pub exactness: Exactness,
    /// Called before each call to the library.
    pub before_call: fn(),
    /// Called after it.
    pub after_call: fn(),
}

impl<'m, F: Format, E: Embedder, C: Cpu> Scene<'m, F, E, C> {
    /// A VM without slots, of two address spaces; each CPU stays in its own.
    pub fn new(mmu: &'m Mmu<F, E>, cpus: Vec<(AddressSpace, C)>) -> Self {
        let (before_call, after_call): (fn(), fn()) = (|| (), || ());
        let (model, exactness) = (Model::new(2), Exactness::Exact);
        Self { mmu, cpus, model, exactness, before_call, after_call }
    }

    /// Does `op` to both.
    ///
    /// # Errors
    /// Only [`OutOfMemory`].
    ///
    /// # Panics
    /// The two differ.
    pub fn apply(&mut self, op: &Op) -> Result<(), OutOfMemory> {
        match *op {
            Op::Create { id, space, first, pages, access, log } => {
                let range = GfnRange::new(gfn(first), pages).expect("in range");
                let (id, space) = (SlotId(id), AddressSpace(space));
                return self.create(SlotSpec { access, log, ..SlotSpec::new(id, space, range) });
            }
            Op::Delete(id) => {
                let id = SlotId(id);
                let deleted = self.library(|scene| scene.mmu.delete_slot(id));
                assert_eq!(deleted, self.model.delete(id));
            }
            Op::Start(id) => return self.start(SlotId(id)),
            Op::Stop(id) => {
                let stopped = self.library(|scene| scene.mmu.stop_log(SlotId(id)));
                assert_eq!(stopped.map_err(of_log), self.model.stop(SlotId(id)));
            }
            Op::Store { cpu, page, word, value } => return self.store(cpu, page, word, value),
            Op::Load { cpu, page, word } => return self.load(cpu, page, word),
            Op::TakePages(id) => self.harvest(SlotId(id), Protect::Pages),
            Op::TakeAll => self.take_all(),
            Op::ProtectAll => self.library(|scene| scene.mmu.write_protect_all()),
            Op::ProtectAllOff => self.library(|scene| scene.mmu.write_protect_all_off()),
            Op::Owe { id, word, mask } => self.owe(SlotId(id), word, mask),
            Op::DeviceWrite { space, at, ref bytes } => self.device_write(space, at, bytes),
            Op::Mark { space, page } => {
                let space = AddressSpace(space);
                self.library(|scene| scene.mmu.mark_dirty(space, gfn(page), Origin::Device));
                self.model.mark(space, gfn(page), Writer::Reported);
            }
        }
        Ok(())
    }

    /// Harvests everything, and compares all pages, which `read` reads behind the tables' back.
    ///
    /// # Panics
    /// The two differ.
    pub fn finish(&mut self, read: impl Fn(Gfn) -> Page) {
        self.take_all();
        for page in (0..SPAN + 64).map(gfn) {
            assert!(read(page) == self.model.page(page), "the content of {page}");
        }
    }

    fn library<T>(&mut self, call: impl FnOnce(&mut Self) -> T) -> T {
        (self.before_call)();
        let answer = call(self);
        (self.after_call)();
        answer
    }

    fn create(&mut self, spec: SlotSpec) -> Result<(), OutOfMemory> {
        let obstacles = self.model.obstacles(&spec);
        match self.library(|scene| scene.mmu.create_slot(spec)) {
            Err(CreateSlotError::OutOfMemory(_)) => return Err(OutOfMemory),
            Err(error) => assert!(obstacles.contains(&error), "{error:?}, not {obstacles:?}"),
            Ok(()) => {
                assert_eq!(obstacles, [], "{spec:?} was created");
                self.model.create(spec);
            }
        }
        Ok(())
    }

    fn start(&mut self, id: SlotId) -> Result<(), OutOfMemory> {
        match self.library(|scene| scene.mmu.start_log(id, Initial::Clean)) {
            Err(LogError::OutOfMemory(_)) => return Err(OutOfMemory),
            other => assert_eq!(other.map_err(of_log), self.model.start(id)),
        }
        Ok(())
    }

    fn store(&mut self, cpu: usize, page: u64, word: u64, value: u64) -> Result<(), OutOfMemory> {
        let at = address(page, word);
        let space = self.cpus[cpu].0;
        match self.library(|scene| scene.cpus[cpu].1.store(at, value)) {
            Err(Refused::OutOfMemory) => return Err(OutOfMemory),
            other => {
                let expected = self.model.write(space, at, &value.to_le_bytes(), Writer::Seen);
                assert_eq!(other.map_err(of_cpu), expected, "a store at {at} in {space:?}");
            }
        }
        Ok(())
    }

    fn load(&mut self, cpu: usize, page: u64, word: u64) -> Result<(), OutOfMemory> {
        let at = address(page, word);
        let space = self.cpus[cpu].0;
        match self.library(|scene| scene.cpus[cpu].1.load(at)) {
            Err(Refused::OutOfMemory) => return Err(OutOfMemory),
            other => assert_eq!(other.map_err(of_cpu), self.model.load(space, at), "at {at}"),
        }
        Ok(())
    }

    fn take_all(&mut self) {
        for id in self.model.logged() {
            self.harvest(id, Protect::Nothing);
        }
        self.library(|scene| scene.mmu.write_protect_all());
    }

    /// A slot that does not exist is asked for all the same, with some set.
    fn harvest(&mut self, id: SlotId, protect: Protect) {
        let spec = self.model.specs().into_iter().find(|spec| spec.id == id);
        let range = spec.map_or(GfnRange::new(gfn(0), 1).expect("in range"), |spec| spec.range);
        let region = Region { slot: id, space: AddressSpace::NORMAL, range };
        let layout = Layout::new(vec![region]).expect("one region");
        let mut round = PageSet::new(&layout);
        let set = &mut round.regions_mut()[0];
        let taken = self.library(|scene| scene.mmu.take_dirty(id, protect, set));
        let named: BTreeSet<u64> = round.regions()[0].pages().collect();
        let expected = self.model.log(id).map(std::mem::take);
        assert_eq!(taken.map_err(of_log), expected.as_ref().map(|_| ()).map_err(|error| *error));
        self.compare(id, &named, &expected.unwrap_or_default());
    }

    fn compare(&self, id: SlotId, named: &BTreeSet<u64>, log: &Log) {
        let Log { dirty, loose } = log;
        assert!(named.is_superset(dirty), "{id:?} lost a page of {dirty:?}, named {named:?}");
        let groups: BTreeSet<u64> = match self.exactness {
            Exactness::Exact => loose.clone(),
            Exactness::ByGroups => dirty.iter().map(|page| page / 64).collect(),
        };
        let stray = named.difference(dirty).find(|page| !groups.contains(&(**page / 64)));
        assert_eq!(stray, None, "{id:?} named a clean page; dirty are {dirty:?}");
    }

    fn owe(&mut self, id: SlotId, word: u64, mask: u64) {
        let specs = self.model.specs();
        let pages = specs.iter().find(|spec| spec.id == id).map_or(0, |spec| spec.range.pages());
        let owed = (0..64).filter(|bit| mask >> bit & 1 != 0).map(|bit| word * 64 + bit);
        let expected = self.model.log(id).map(|log| {
            owed.filter(|page| *page < pages).for_each(|page| log.mark(page, Writer::Seen));
        });
        let answer = self.library(|scene| scene.mmu.owe(id, word, mask));
        assert_eq!(answer.map_err(of_log), expected);
    }

    fn device_write(&mut self, space: u16, at: u64, bytes: &[u8]) {
        let (space, at) = (AddressSpace(space), Gpa::new(gfn(0).gpa().get() + at));
        let written = self.library(|scene| scene.mmu.guest_writer().write(space, at, bytes));
        let written = written.map_err(of_writer);
        assert_eq!(
            written,
            self.model.write(space, at, bytes, Writer::Seen),
            "a device's write at {at}"
        );
    }
}

fn gfn(offset: u64) -> Gfn {
    Gfn::new(BASE + offset)
}

fn address(page: u64, word: u64) -> Gpa {
    Gpa::new(gfn(page).gpa().get() + 8 * word)
}

fn of_log(error: LogError) -> Refusal {
    match error {
        LogError::NoSlot(_) => Refusal::NoSlot,
        LogError::NotLogged(_) => Refusal::NotLogged,
        LogError::Mismatch { .. } | LogError::OutOfMemory(_) => panic!("{error}"),
    }
}

fn of_cpu(error: Refused) -> Refusal {
    match error {
        Refused::Unmapped => Refusal::NoSlot,
        Refused::ReadOnly => Refusal::ReadOnly,
        Refused::OutOfMemory => panic!("no memory for a table"),
    }
}

fn of_writer(error: WriteError) -> Refusal {
    match error {
        WriteError::NoSlot(_) => Refusal::NoSlot,
        WriteError::ReadOnly(_) => Refusal::ReadOnly,
        WriteError::NoBacking(at) => panic!("no memory behind {at}"),
    }
}
