//! A guest, its vCPUs, and somebody who copies what the log says.

use crate::hardware::{Attempt, Backed, Embed, Hardware, Registers};
use crate::tlb::Place;
use crate::{Beginning, Plan};
use loom::sync::Arc;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::*;
use vellum_pte::{
    AddressSpace, Format, Gfn, GfnRange, Gpa, Level, Pfn, SUB_PAGE_SIZE, SlotId, SubPageEvent,
    SubPageMap,
};

pub const SLOT: SlotId = SlotId(0);
const MOST_PAGES: usize = 8;

/// How the guest's tables lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One root, two levels, four pages.
    Flat,
    /// The same with a slot of the first two pages.
    Half,
    /// Two address spaces like that, a slot in each.
    TwoSpaces,
    /// Eight pages: two roots side by side where the format has that, three levels where not.
    Wide,
    /// The same tables, and a slot for each of the first two pages.
    Apart,
}

/// A guest to be made.
#[derive(Clone, Copy)]
pub struct Guest {
    pub shape: Shape,
    pub log: LogMode,
    /// The largest leaf that its memory allows.
    pub leaves: Level,
    /// Whether its hardware sets A.
    pub accessed: AccessedBits,
    pub backed: Backed,
    /// Whether its hardware has sub-page tables, and the VM uses them.
    pub sub_pages: SubPageHardware,
    /// Whether its hardware sets D, and logs where it does.
    pub dirty_bits: DirtyBits,
    pub ring: Option<RingSize>,
}

impl Guest {
    /// Four logged pages, mapped one by one.
    pub const LOGGED: Self = Self {
        shape: Shape::Flat,
        log: LogMode::On,
        leaves: Level::L1,
        accessed: AccessedBits::Set,
        backed: Backed::Fixed,
        sub_pages: SubPageHardware::Absent,
        dirty_bits: DirtyBits::Unused,
        ring: None,
    };

    /// The same with sub-page permissions, by tables where the format has them.
    pub const RESTRICTED: Self = Self { sub_pages: SubPageHardware::Present, ..Self::LOGGED };

    /// Four pages without a log, mapped two at a time.
    pub const HUGE: Self = Self { log: LogMode::Off, leaves: Level::L2, ..Self::LOGGED };

    fn address_bits(&self) -> u32 {
        if matches!(self.shape, Shape::Wide | Shape::Apart) { 15 } else { 14 }
    }

    fn spaces(&self) -> u16 {
        if self.shape == Shape::TwoSpaces { 2 } else { 1 }
    }

    /// Pages of an address space.
    fn pages(&self) -> usize {
        1 << (self.address_bits() - 12)
    }

    /// The slots of each space.
    fn slots(self) -> impl Iterator<Item = SlotSpec> {
        let (pages, of_a_space) = match self.shape {
            Shape::Half => (2, 1),
            Shape::Apart => (1, 2),
            Shape::Flat | Shape::TwoSpaces | Shape::Wide => (self.pages() as u64, 1),
        };
        (0..self.spaces() * of_a_space).map(move |number| {
            let (space, place) = (number / of_a_space, u64::from(number % of_a_space) * pages);
            let range = GfnRange::new(Gfn::new(place), pages).expect("in range");
            let memory = MemoryId(u64::from(space) * self.pages() as u64 + place);
            let spec = SlotSpec::new(SlotId(number), AddressSpace(space), range);
            SlotSpec { log: self.log, memory, ..spec }
        })
    }
}

/// A running one. Its pages have one number each, over all its address spaces; so has its memory.
pub struct World<F: Format> {
    pub hardware: Arc<Hardware<F>>,
    pub mmu: Mmu<F, Embed<F>>,
    registers: Registers,
    pub slots: Vec<SlotSpec>,
    layout: Layout,
    beginning: Beginning,
}

impl<F: Format> World<F> {
    /// All threads are there: the search begins as it was told to.
    pub fn begin(&self) {
        self.hardware.give_way_after(self.beginning.gives_way);
        if self.beginning.spawned_first {
            loom::thread::yield_now();
        }
    }

    /// A guest of [`Guest::LOGGED`].
    pub fn new(plan: Plan) -> Arc<Self> {
        Self::of(plan, Guest::LOGGED)
    }

    pub fn of(plan: Plan, guest: Guest) -> Arc<Self> {
        let slots: Vec<_> = guest.slots().collect();
        let hardware = Arc::new(Hardware::new(pages_of(&slots), &guest));
        let config = Config {
            spaces: guest.spaces(),
            address_bits: Some(guest.address_bits()),
            accessed: guest.accessed,
            sub_pages: guest.sub_pages,
            dirty_bits: guest.dirty_bits,
            ring: guest.ring,
            broken: plan.broken,
            ..Config::default()
        };
        let mmu = Mmu::new(Embed(hardware.clone()), config).expect("memory");
        for slot in &slots {
            mmu.create_slot(*slot).expect("fits");
        }
        if guest.sub_pages == SubPageHardware::Present {
            mmu.activate_sub_pages().expect("memory");
        }
        let root = |space| mmu.root(AddressSpace(space)).map_or(0, Pfn::get);
        let sub_page_root = |space| mmu.sub_page_root(AddressSpace(space)).map(Pfn::get);
        let registers = Registers {
            roots: [root(0), root(1)],
            sub_page_roots: [sub_page_root(0), sub_page_root(1)],
            level: mmu.root_shape().level,
            pages: guest.pages(),
        };
        let region =
            |slot: &SlotSpec| Region { slot: slot.id, space: slot.space, range: slot.range };
        let layout = Layout::new(slots.iter().map(region).collect()).expect("regions");
        let beginning = plan.beginning;
        Arc::new(Self { hardware, mmu, registers, slots, layout, beginning })
    }

    /// How many pages of memory it has.
    pub fn pages(&self) -> usize {
        pages_of(&self.slots)
    }

    pub fn address(&self, page: usize) -> (AddressSpace, Gpa) {
        let space = u16::try_from(page / self.registers.pages).expect("small");
        (AddressSpace(space), Gfn::new((page % self.registers.pages) as u64).gpa())
    }

    /// Stores as vCPU `cpu` does: through its TLB, else a walk, else a fault, until it retires.
    pub fn store(&self, cpu: usize, page: usize, value: u64) {
        assert_eq!(self.store_if_there(cpu, page, value), Outcome::Mapped);
    }

    /// The same, where it may end in another way.
    pub fn store_if_there(&self, cpu: usize, page: usize, value: u64) -> Outcome {
        self.store_at(cpu, Place::of(page), value)
    }

    /// The same, at some place in the page.
    pub fn store_at(&self, cpu: usize, place: Place, value: u64) -> Outcome {
        let attempt = || self.hardware.store(self.registers, cpu, place, value);
        self.until(place, Access::Write, attempt)
            .map_or_else(|refused| refused, |()| Outcome::Mapped)
    }

    /// The same, made by the embedder where that is asked for.
    pub fn store_or_emulate(&self, cpu: usize, page: usize, value: u8) -> Outcome {
        match self.store_if_there(cpu, page, u64::from(value)) {
            Outcome::Emulate => match self.write(page, value) {
                Ok(()) => Outcome::Mapped,
                Err(WriteError::Denied(denial)) => Outcome::Denied(denial),
                Err(error) => panic!("{error}"),
            },
            other => other,
        }
    }

    /// Writes as a device does.
    pub fn write(&self, page: usize, value: u8) -> Result<(), WriteError> {
        let (space, gpa) = self.address(page);
        self.mmu.guest_writer(Origin::Device).write(space, gpa, &[value])
    }

    /// Loads as vCPU `cpu` does.
    pub fn load(&self, cpu: usize, page: usize) -> u64 {
        self.load_if_there(cpu, page).expect("there is memory")
    }

    /// The same, where there may be no memory any more.
    pub fn load_if_there(&self, cpu: usize, page: usize) -> Option<u64> {
        let attempt = || self.hardware.load(self.registers, cpu, page);
        self.until(Place::of(page), Access::Read, attempt).ok()
    }

    /// Tries an access again and again, handling its faults.
    fn until<T>(
        &self,
        place: Place,
        access: Access,
        attempt: impl Fn() -> Attempt<T>,
    ) -> Result<T, Outcome> {
        let mut vcpu = self.mmu.vcpu().expect("memory");
        let (space, page) = self.address(place.page);
        let gpa = Gpa::new(page.get() + u64::from(place.sub_page) * SUB_PAGE_SIZE);
        loop {
            let missed = match attempt() {
                Attempt::Done(done) => return Ok(done),
                Attempt::Fault => false,
                Attempt::Miss => true,
            };
            self.hardware.step();
            let outcome = match missed {
                true => vcpu.sub_page_event(space, gpa, SubPageEvent::Miss),
                false => vcpu.fault(space, gpa, access),
            };
            match outcome {
                Outcome::Mapped | Outcome::Spurious => {}
                Outcome::Retry => loom::thread::yield_now(),
                refused => return Err(refused),
            }
        }
    }

    /// What a vCPU does whose walk of the sub-page tables has found nothing for a page.
    pub fn miss(&self, page: usize) -> Outcome {
        let (space, gpa) = self.address(page);
        self.mmu.vcpu().expect("memory").sub_page_event(space, gpa, SubPageEvent::Miss)
    }

    /// Gives a page a map.
    pub fn restrict(&self, page: usize, map: SubPageMap) {
        let (space, gpa) = self.address(page);
        let range = SubPageRange::new(space, gpa.gfn());
        self.mmu.set_sub_pages(range, &[map]).expect("memory");
    }

    /// Tracks a page once more.
    pub fn track(&self, page: usize) {
        let (space, gpa) = self.address(page);
        self.mmu.track(space, gpa.gfn(), TrackMode::Write).expect("memory");
    }

    /// Tracks a page once less.
    pub fn untrack(&self, page: usize) {
        let (space, gpa) = self.address(page);
        self.mmu.untrack(space, gpa.gfn(), TrackMode::Write).expect("it is tracked");
    }

    /// Maps a page as the fault of a load does.
    pub fn map(&self, page: usize) {
        let (space, gpa) = self.address(page);
        let _ = self.mmu.vcpu().expect("memory").fault(space, gpa, Access::Read);
    }

    /// One store, without a fault if it needs one. Says whether it retired.
    pub fn try_store(&self, cpu: usize, page: usize, value: u64) -> bool {
        let attempt = self.hardware.store(self.registers, cpu, Place::of(page), value);
        matches!(attempt, Attempt::Done(()))
    }

    /// Has a vCPU look at the tables for a page that it does not access.
    pub fn prefetch(&self, cpu: usize, page: usize) {
        self.hardware.prefetch(self.registers, cpu, page);
    }

    /// Whether a leaf above the last level maps a page.
    pub fn is_huge(&self, page: usize) -> bool {
        self.hardware.is_huge(self.registers, page)
    }

    /// Moves the guest to other memory, as far as it was written: so many pages from one on. Returns
    /// what is left where the first one was.
    pub fn give_away(&self, first: usize, pages: usize) -> u64 {
        let invalidation = self.invalidate(first, pages);
        let left = self.hardware.read_at(first);
        self.hardware.change_backing(first..first + pages);
        drop(invalidation);
        left
    }

    /// An invalidation of a page that changes nothing.
    pub fn touch_backing(&self, page: usize) {
        drop(self.invalidate(page, 1));
    }

    fn invalidate(&self, first: usize, pages: usize) -> Invalidation<'_, F, Embed<F>> {
        let (space, gpa) = self.address(first);
        let range = GfnRange::new(gpa.gfn(), pages as u64).expect("in range");
        self.mmu.invalidate(space, range)
    }

    /// Harvests in one of the two ways all slots that there still are; on return pages may be read.
    pub fn harvest(&self, protect: Protect) -> Vec<usize> {
        let mut set = PageSet::new(&self.layout);
        for (slot, region) in self.slots.iter().zip(set.regions_mut()) {
            match self.mmu.take_dirty(slot.id, protect, region) {
                Err(LogError::NoSlot(_)) => {}
                taken => taken.expect("logged"),
            }
        }
        if protect == Protect::Nothing {
            self.hardware.step();
            self.mmu.write_protect_all();
        }
        self.named(&set)
    }

    /// Takes everything that the rings name and the bitmaps too; on return pages may be read.
    pub fn empty_rings(&self, again: Again) -> Vec<usize> {
        let mut pages = self.harvest_rings();
        self.hardware.step();
        self.mmu.reset_rings(again);
        pages.extend(self.harvest(Protect::Pages));
        pages
    }

    /// What the rings name. No page may be read yet.
    pub fn harvest_rings(&self) -> Vec<usize> {
        let mut pages = Vec::new();
        self.mmu.harvest_rings(|named| {
            let slot = self.slots.iter().find(|slot| slot.id == named.slot).expect("it is there");
            pages.push(usize::try_from(slot.memory.0 + named.page).expect("small"));
        });
        pages
    }

    /// Takes the log of the first slot, protects nothing, and loses what it took.
    pub fn take(&self) {
        let mut set = PageSet::new(&self.layout);
        self.mmu.take_dirty(SLOT, Protect::Nothing, &mut set.regions_mut()[0]).expect("logged");
    }

    /// What is dirty, which stays so.
    pub fn read_dirty(&self) -> Vec<usize> {
        let mut set = PageSet::new(&self.layout);
        for (slot, region) in self.slots.iter().zip(set.regions_mut()) {
            self.mmu.read_dirty(slot.id, region).expect("logged");
        }
        self.named(&set)
    }

    /// Takes pages of the first slot out of the log, by a mask.
    pub fn clear(&self, mask: u64) -> Vec<usize> {
        let mut set = PageSet::new(&self.layout);
        let range = ClearRange { first: 0, pages: self.slots[0].range.pages() };
        let region = &mut set.regions_mut()[0];
        self.mmu.clear_dirty(SLOT, range, &[mask], region).expect("logged");
        self.named(&set)
    }

    /// Which pages of the first slot were used since it was last asked.
    pub fn age(&self) -> Vec<usize> {
        let mut set = PageSet::new(&self.layout);
        let region = &mut set.regions_mut()[0];
        self.mmu.age(SLOT, self.slots[0].range, region).expect("it is there");
        self.named(&set)
    }

    /// Which pages of its memory are in a set.
    fn named(&self, set: &PageSet) -> Vec<usize> {
        let of_slot = |(slot, region): (&SlotSpec, &vellum_memory::RegionSet)| {
            let first = slot.memory.0;
            region.pages().map(|page| usize::try_from(first + page).expect("small")).collect()
        };
        self.slots.iter().zip(set.regions()).flat_map(|pair| -> Vec<_> { of_slot(pair) }).collect()
    }
}

fn pages_of(slots: &[SlotSpec]) -> usize {
    slots.iter().map(|slot| usize::try_from(slot.range.pages()).expect("small")).sum()
}

/// The other side of a migration: what was copied.
#[derive(Default)]
pub struct Copied([u64; MOST_PAGES]);

impl Copied {
    /// What a migration does first: everything.
    pub fn whole<F: Format>(world: &World<F>) -> Self {
        let mut copied = Self::default();
        for page in 0..world.pages() {
            copied.0[page] = world.hardware.read(page);
        }
        copied
    }

    /// One round: harvest, then copy.
    pub fn round<F: Format>(self, world: &World<F>, protect: Protect) -> Self {
        self.pages(world, world.harvest(protect))
    }

    /// Copies some pages.
    pub fn pages<F: Format>(mut self, world: &World<F>, pages: Vec<usize>) -> Self {
        world.hardware.step();
        for page in pages {
            self.0[page] = world.hardware.read(page);
        }
        self
    }

    /// The guest is paused: a last round, after which nothing may be missing.
    pub fn finish<F: Format>(self, world: &World<F>, protect: Protect) {
        self.round(world, protect).check(world);
    }

    /// Nothing is missing.
    pub fn check<F: Format>(&self, world: &World<F>) {
        for page in 0..world.pages() {
            assert_eq!(self.0[page], world.hardware.read(page), "a write to page {page} was lost");
        }
    }
}
