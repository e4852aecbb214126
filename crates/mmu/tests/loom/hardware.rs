//! A machine small enough for loom: its vCPUs walk the tables in an access window that a
//! shoot-down waits out, and keep what they walked until they are told.

use crate::Plan;
use crate::tiny::Tiny;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use std::ptr::NonNull;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Gpa, Level, Pfn, Raw, SlotId};

pub const PAGES: usize = 4;
pub const VCPUS: usize = 2;
pub const SLOT: SlotId = SlotId(0);
const SPACE: AddressSpace = AddressSpace::NORMAL;

/// What a vCPU remembers: pages it may store to, and upper entries with their permission.
#[derive(Default)]
struct Tlb {
    storable: [bool; PAGES],
    upper: [Option<(u64, bool)>; 2],
}

/// Frames by number, so that the walker finds them. Plain memory: no scheduling point.
#[derive(Default)]
struct Frames {
    made: Vec<NonNull<EntryWord>>,
    released: Vec<bool>,
}

// SAFETY: the entries are atomics, shared on purpose.
unsafe impl Send for Frames {}

pub struct Hardware {
    frames: std::sync::Mutex<Frames>,
    tlbs: [Mutex<Tlb>; VCPUS],
    memory: [AtomicU64; PAGES],
}

impl Hardware {
    fn entry(&self, frame: u64, index: usize) -> u64 {
        let frames = self.frames.lock().expect("no panics inside");
        let number = usize::try_from(frame).expect("small");
        assert!(!frames.released[number], "hardware walks a table that was released");
        let word = frames.made[number];
        drop(frames);
        // SAFETY: two entries a frame, leaked until the model ends.
        unsafe { word.add(index).as_ref() }.load(Ordering::Acquire)
    }

    pub fn read(&self, page: usize) -> u64 {
        self.memory[page].load(Ordering::Acquire)
    }
}

pub struct Embed(Arc<Hardware>);

impl Embedder for Embed {
    fn allocate_frame(&self) -> Option<Frame> {
        let entries = Box::leak(Box::new([EntryWord::new(0), EntryWord::new(0)]));
        let entries = NonNull::new(entries.as_mut_ptr())?;
        let mut frames = self.0.frames.lock().expect("no panics inside");
        frames.made.push(entries);
        frames.released.push(false);
        let pfn = Pfn::new(frames.made.len() as u64 - 1);
        // SAFETY: two zeroed entries, which nobody else has.
        Some(unsafe { Frame::from_raw(pfn, entries) })
    }

    fn release_frame(&self, frame: Frame) {
        let number = usize::try_from(frame.pfn().get()).expect("small");
        self.0.frames.lock().expect("no panics inside").released[number] = true;
    }

    fn shoot_down(&self, _: Scope) {
        for tlb in &self.0.tlbs {
            *tlb.lock().expect("no panics inside") = Tlb::default();
        }
    }

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        loom::thread::yield_now();
    }

    fn resolve(&self, _: AddressSpace, gfn: Gfn) -> Option<Backing> {
        let frame = Pfn::new(gfn.get());
        Some(Backing { frame, write: BackingWrite::Allowed, largest: Level::L1 })
    }

    fn write(&self, _: AddressSpace, gpa: Gpa, bytes: &[u8]) -> Result<(), NoBacking> {
        let page = usize::try_from(gpa.gfn().get()).expect("small");
        self.0.memory[page].store(u64::from(bytes[0]), Ordering::Release);
        Ok(())
    }
}

/// The one slot: all pages, logged.
pub fn spec() -> SlotSpec {
    let range = GfnRange::new(Gfn::new(0), PAGES as u64).expect("in range");
    let (access, log) = (SlotAccess::ReadWrite, LogMode::On);
    SlotSpec { id: SLOT, space: SPACE, range, access, log }
}

/// A guest of four pages, its vCPUs, and somebody who copies what the log says.
pub struct World {
    pub hardware: Arc<Hardware>,
    pub mmu: Mmu<Tiny, Embed>,
    root: u64,
    layout: Layout,
    spawned_first: bool,
}

impl World {
    /// Lets the spawned threads go first, in every other model: loom's search looks back from the
    /// order it begins with, and forgets a load that another thread's load follows.
    pub fn begin(&self) {
        if self.spawned_first {
            loom::thread::yield_now();
        }
    }

    /// One logged slot of `PAGES` pages.
    pub fn new(plan: Plan) -> Arc<Self> {
        let hardware = Arc::new(Hardware {
            frames: std::sync::Mutex::default(),
            tlbs: std::array::from_fn(|_| Mutex::new(Tlb::default())),
            memory: std::array::from_fn(|_| AtomicU64::new(0)),
        });
        let mmu = Mmu::new(Embed(hardware.clone()), Config { spaces: 1, broken: plan.broken })
            .expect("memory");
        mmu.create_slot(spec()).expect("fits");
        let root = mmu.root(SPACE).expect("one space").get();
        let region = Region { slot: SLOT, space: SPACE, range: spec().range };
        let layout = Layout::new(vec![region]).expect("one region");
        Arc::new(Self { hardware, mmu, root, layout, spawned_first: plan.spawned_first })
    }

    /// Stores as vCPU `cpu` does: through its TLB, else a walk, else a fault, until it retires.
    pub fn store(&self, cpu: usize, page: usize, value: u64) {
        assert_eq!(self.store_if_there(cpu, page, value), Outcome::Mapped);
    }

    /// The same, where there may be no memory any more.
    pub fn store_if_there(&self, cpu: usize, page: usize, value: u64) -> Outcome {
        let mut vcpu = self.mmu.vcpu().expect("memory");
        loop {
            if self.try_store(cpu, page, value) {
                return Outcome::Mapped;
            }
            match vcpu.fault(SPACE, Gfn::new(page as u64).gpa(), Access::Write) {
                Outcome::Mapped | Outcome::Spurious => {}
                refused => return refused,
            }
        }
    }

    /// Maps a page as a load does.
    pub fn load(&self, page: usize) {
        let mut vcpu = self.mmu.vcpu().expect("memory");
        let _ = vcpu.fault(SPACE, Gfn::new(page as u64).gpa(), Access::Read);
    }

    /// One access: TLB or walk, and the store, in one window. Says whether it retired.
    pub fn try_store(&self, cpu: usize, page: usize, value: u64) -> bool {
        let mut tlb = self.hardware.tlbs[cpu].lock().expect("no panics inside");
        if !tlb.storable[page] && !self.walk(&mut tlb, page) {
            tlb.upper[page / 2] = None;
            return false;
        }
        tlb.storable[page] = true;
        self.hardware.memory[page].store(value, Ordering::Release);
        true
    }

    fn walk(&self, tlb: &mut Tlb, page: usize) -> bool {
        let (table, open) = match tlb.upper[page / 2] {
            Some(cached) => cached,
            None => {
                let raw = Raw(self.hardware.entry(self.root, page / 2));
                if !Tiny::is_present(raw) {
                    return false;
                }
                (raw.0 >> 12, Tiny::is_storable(raw))
            }
        };
        tlb.upper[page / 2] = Some((table, open));
        open && Tiny::is_storable(Raw(self.hardware.entry(table, page % 2)))
    }

    /// Harvests in one of the two ways; on return pages may be read.
    pub fn harvest(&self, protect: Protect) -> Vec<usize> {
        let mut set = PageSet::new(&self.layout);
        let region = &mut set.regions_mut()[0];
        self.mmu.take_dirty(SLOT, protect, region).expect("logged");
        if protect == Protect::Nothing {
            self.mmu.write_protect_all();
        }
        region.pages().map(|page| usize::try_from(page).expect("small")).collect()
    }
}

/// The other side of a migration: what was copied.
#[derive(Default)]
pub struct Copied([u64; PAGES]);

impl Copied {
    /// What a migration does first: everything.
    pub fn whole(world: &World) -> Self {
        Self(std::array::from_fn(|page| world.hardware.read(page)))
    }

    /// One round: harvest, then copy.
    pub fn round(mut self, world: &World, protect: Protect) -> Self {
        for page in world.harvest(protect) {
            self.0[page] = world.hardware.read(page);
        }
        self
    }

    /// The guest is paused: a last round, after which nothing may be missing.
    pub fn finish(self, world: &World, protect: Protect) {
        let copied = self.round(world, protect);
        for page in 0..PAGES {
            assert_eq!(
                copied.0[page],
                world.hardware.read(page),
                "a write to page {page} was lost"
            );
        }
    }
}
