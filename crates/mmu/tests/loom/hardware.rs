//! A machine small enough for loom: its vCPUs walk the tables in an access window that a shoot-down
//! waits out, and keep what they walked until they are told, or until that address faults.

use crate::tlb::{Place, Stores, Tlb, Translation, Upper};
use crate::world::Guest;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::{LockResult, PoisonError};
use vellum_mmu::*;
use vellum_pte::{
    AddressSpace, ClearAccessed, ClosedTable, Entry, Format, Gate, Gfn, Gpa, Leaf, Level, Pfn, Raw,
    Replace, Write,
};

pub const VCPUS: usize = 2;
pub(crate) const ENTRIES: usize = 2;

/// So many words lie between the first entries of two roots side by side.
const ROOTS_APART: usize = 512;

/// What is behind the guest's pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backed {
    /// The same host memory as long as it lives.
    Fixed,
    /// Other host memory after [`Hardware::change_backing`].
    Changing,
}

/// Frames by number, so that the walker finds them. Plain memory: no scheduling point.
#[derive(Default)]
struct Frames {
    made: Vec<NonNull<EntryWord>>,
    released: Vec<bool>,
    memory: Vec<NonNull<[MaybeUninit<EntryWord>]>>,
}

// SAFETY: the entries are atomics, shared on purpose.
unsafe impl Send for Frames {}

impl Frames {
    /// Zeroed tables side by side.
    fn make(&mut self, tables: usize) -> Frame {
        let first = self.made.len();
        let words = Box::leak(Box::new_uninit_slice((tables - 1) * ROOTS_APART + ENTRIES));
        for table in words.chunks_mut(ROOTS_APART) {
            for word in &mut table[..ENTRIES] {
                word.write(EntryWord::new(0));
            }
            self.made.push(NonNull::from(&mut table[0]).cast());
            self.released.push(false);
        }
        self.memory.push(NonNull::from(words));
        // SAFETY: two zeroed entries a table, which nobody else has and which live as long as this.
        unsafe { Frame::from_raw(Pfn::new(first as u64), self.made[first]) }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        for words in &self.memory {
            // SAFETY: `make` leaked it, and whoever knew it is gone.
            drop(unsafe { Box::from_raw(words.as_ptr()) });
        }
    }
}

/// What the machine is told when it starts.
#[derive(Clone, Copy)]
pub struct Registers {
    /// The first root of each address space.
    pub roots: [u64; 2],
    pub level: Level,
    /// The root of each address space's sub-page tables, where it was told of one.
    pub sub_page_roots: [Option<u64>; 2],
    /// Pages of an address space.
    pub pages: usize,
}

/// What becomes of an access.
pub enum Attempt<T> {
    /// It retires.
    Done(T),
    /// It faults.
    Fault,
    /// The walk of the sub-page tables finds nothing.
    Miss,
}

pub struct Hardware<F> {
    frames: std::sync::Mutex<Frames>,
    tlbs: [Mutex<Tlb>; VCPUS],
    memory: Vec<AtomicU64>,
    /// How far behind its first place a page's memory is.
    moved: Option<AtomicU64>,
    leaves: std::sync::Mutex<Level>,
    accessed: AccessedBits,
    pub(crate) dirty_bits: DirtyBits,
    /// Whoever takes out what hardware has logged keeps others waiting until it is in the library's log.
    draining: Mutex<()>,
    also: std::sync::Mutex<Option<std::sync::Arc<dyn Fn() + Send + Sync>>>,
    /// Steps until whoever makes the last of them gives way; 0: nobody does.
    until_giving_way: AtomicUsize,
    format: PhantomData<F>,
}

impl<F: Format> Hardware<F> {
    /// For so many pages of a guest.
    pub fn new(pages: usize, guest: &Guest) -> Self {
        let (moved, memory) = match guest.backed {
            Backed::Fixed => (None, pages),
            Backed::Changing => (Some(AtomicU64::new(0)), 2 * pages),
        };
        Self {
            frames: std::sync::Mutex::default(),
            tlbs: std::array::from_fn(|_| Mutex::new(Tlb::default())),
            memory: (0..memory).map(|_| AtomicU64::new(0)).collect(),
            moved,
            leaves: std::sync::Mutex::new(guest.leaves),
            accessed: guest.accessed,
            dirty_bits: guest.dirty_bits,
            draining: Mutex::new(()),
            also: std::sync::Mutex::default(),
            until_giving_way: AtomicUsize::new(0),
            format: PhantomData,
        }
    }

    pub(crate) fn word(&self, frame: u64, index: usize) -> Result<&EntryWord, Objection> {
        let frames = self.frames();
        let number = usize::try_from(frame).expect("small");
        if frames.released[number] {
            return Err("hardware walks a table that was released");
        }
        let word = frames.made[number];
        drop(frames);
        // SAFETY: two entries a frame, valid as long as `self`.
        Ok(unsafe { word.add(index).as_ref() })
    }

    /// Has whoever makes the step after so many let others go first.
    pub fn give_way_after(&self, steps: Option<usize>) {
        self.until_giving_way.store(steps.unwrap_or(0), std::sync::atomic::Ordering::Relaxed);
    }

    /// One step of the machine. No scheduling point but the one that was asked for.
    pub fn step(&self) {
        let left = self.until_giving_way.load(std::sync::atomic::Ordering::Relaxed);
        if left > 0 {
            self.until_giving_way.store(left - 1, std::sync::atomic::Ordering::Relaxed);
        }
        if left == 1 {
            loom::thread::yield_now();
        }
    }

    fn frames(&self) -> std::sync::MutexGuard<'_, Frames> {
        unpoisoned(self.frames.lock())
    }

    fn window(&self, cpu: usize) -> MutexGuard<'_, Tlb> {
        unpoisoned(self.tlbs[cpu].lock())
    }

    /// Where a page's memory is. Relaxed: who may rely on it synchronises otherwise.
    fn host(&self, page: usize) -> usize {
        let moved = self.moved.as_ref().map_or(0, |moved| moved.load(Ordering::Relaxed));
        page + usize::try_from(moved).expect("small")
    }

    /// What is in a page.
    pub fn read(&self, page: usize) -> u64 {
        self.memory[self.host(page)].load(Ordering::Acquire)
    }

    /// What is at a place of the machine's memory, whoever has it.
    pub fn read_at(&self, place: usize) -> u64 {
        self.memory[place].load(Ordering::Acquire)
    }

    /// The largest leaf that its memory allows from now on.
    pub fn allow_leaves(&self, largest: Level) {
        *unpoisoned(self.leaves.lock()) = largest;
    }

    fn write(&self, page: usize, value: u64) {
        self.memory[self.host(page)].store(value, Ordering::Release);
    }

    /// Moves some pages to other memory, as whoever migrates pages does, and with them all that
    /// were never written.
    pub fn change_backing(&self, pages: Range<usize>) {
        let all = self.memory.len() / 2;
        for page in pages {
            self.memory[page + all].store(self.read_at(page), Ordering::Release);
        }
        let moved = self.moved.as_ref().expect("a machine whose backing changes");
        moved.store(all as u64, Ordering::Relaxed);
    }

    /// Has something done in every shoot-down from now on.
    pub fn shoot_down_with(&self, also: Option<Box<dyn Fn() + Send + Sync>>) {
        *unpoisoned(self.also.lock()) = also.map(std::sync::Arc::from);
    }

    /// One access that stores: TLB or walk, and the store, in one window.
    pub fn store(&self, on: Registers, cpu: usize, place: Place, value: u64) -> Attempt<()> {
        self.access(on, cpu, place, Access::Write, |memory| memory.store(value, Ordering::Release))
    }

    /// The same for a load.
    pub fn load(&self, on: Registers, cpu: usize, page: usize) -> Attempt<u64> {
        let place = Place::of(page);
        self.access(on, cpu, place, Access::Read, |memory| memory.load(Ordering::Acquire))
    }

    /// A walk that nobody asked for, as hardware makes them.
    pub fn prefetch(&self, on: Registers, cpu: usize, page: usize) {
        let mut tlb = self.window(cpu);
        let walked = self.walk(on, &mut tlb, Place::of(page), Access::Read);
        drop(tlb);
        walked.map(drop).unwrap_or_else(|objection| panic!("{objection}"));
    }

    fn access<T>(
        &self,
        on: Registers,
        cpu: usize,
        place: Place,
        access: Access,
        retire: impl FnOnce(&AtomicU64) -> T,
    ) -> Attempt<T> {
        self.step();
        let mut tlb = self.window(cpu);
        let walked = match tlb.find(place, access) {
            Some(known) => Ok(Attempt::Done(known)),
            None => self.ask(on, &mut tlb, place, access),
        };
        let done = walked.map(|walked| match walked {
            Attempt::Done(known) => Attempt::Done(retire(&self.memory[known.frame_of(place.page)])),
            Attempt::Fault => {
                tlb.forget(place.page);
                Attempt::Fault
            }
            Attempt::Miss => Attempt::Miss,
        });
        // A panic inside of the window would poison it for what is dropped then.
        drop(tlb);
        done.unwrap_or_else(|objection| panic!("{objection}"))
    }

    /// With a leaf that is cached, the sub-page tables alone, if they let the access pass.
    fn ask(
        &self,
        on: Registers,
        tlb: &mut Tlb,
        place: Place,
        access: Access,
    ) -> Result<Attempt<Translation>, Objection> {
        if let Some(known) = tlb.asks(place, access)
            && let Some(stores) = self.permitted(on, tlb, place.page)?
        {
            let found = Translation { stores, ..known };
            if found.lets_pass(place, access) {
                tlb.keep(found);
                return Ok(Attempt::Done(found));
            }
        }
        self.walk(on, tlb, place, access)
    }

    /// From the lowest entry that is cached, or from the root.
    fn walk(
        &self,
        on: Registers,
        tlb: &mut Tlb,
        place: Place,
        access: Access,
    ) -> Result<Attempt<Translation>, Objection> {
        let mut at = tlb.upper(place.page).unwrap_or_else(|| on.root(place.page));
        loop {
            let pages = at.pages / ENTRIES;
            let first = place.page & !(pages - 1);
            let word = self.word(at.table, place.page / pages % ENTRIES)?;
            let raw = Raw(word.load(Ordering::Acquire));
            match F::decode(raw, at.level) {
                Entry::Table { gate: Gate::Closed, .. } if parks::<F>() => {
                    return Ok(Attempt::Fault);
                }
                Entry::Table { child, gate, .. } => {
                    let open = at.open && gate == Gate::Open;
                    at = Upper { first, pages, level: below(at.level), table: child.get(), open };
                    tlb.keep_upper(at);
                }
                Entry::Leaf(leaf) => {
                    let frame = usize::try_from(leaf.frame.get()).expect("small");
                    let stores = match at.open && leaf.write == Write::Storable {
                        true => Stores::All,
                        false if F::is_partial(raw) => Stores::Asks,
                        false => Stores::None,
                    };
                    let mut found = Translation { first, pages, frame, stores };
                    if F::REPLACE == Replace::BreakFirst && tlb.has_other_size(found) {
                        return Err("both sizes at once");
                    }
                    if stores == Stores::Asks && access == Access::Write {
                        match self.permitted(on, tlb, place.page)? {
                            None => return Ok(Attempt::Miss),
                            Some(stores) => found.stores = stores,
                        }
                    }
                    if !found.lets_pass(place, access) {
                        return Ok(Attempt::Fault);
                    }
                    if access == Access::Read && !leaf.dirty && self.sets_dirty() {
                        // Cached with a clear D: a store has to walk.
                        found.stores = Stores::None;
                    }
                    let used = match access {
                        Access::Read => self.use_leaf(word, raw, leaf),
                        _ => self.dirty_leaf(word, raw, leaf, || tlb.log(place.page)),
                    };
                    match used {
                        Some(true) => tlb.keep(found),
                        Some(false) => continue,
                        None => return Ok(Attempt::Fault),
                    }
                    return Ok(Attempt::Done(found));
                }
                Entry::Absent | Entry::Frozen { .. } => return Ok(Attempt::Fault),
            }
        }
    }

    /// Whether the root itself maps a page.
    pub fn is_huge(&self, on: Registers, page: usize) -> bool {
        let root = on.root(page);
        let word = self.word(root.table, page / (root.pages / ENTRIES) % ENTRIES);
        F::is_leaf(Raw(word.expect("a root stays").load(Ordering::Acquire)), root.level)
    }

    /// Sets A where this hardware does so; `None` where a leaf without it faults, false where the
    /// leaf has changed.
    pub(crate) fn use_leaf(&self, word: &EntryWord, raw: Raw, leaf: Leaf) -> Option<bool> {
        match (leaf.accessed, self.accessed) {
            (true, _) => Some(true),
            (false, AccessedBits::Set) => {
                let used = F::set_accessed(raw).0;
                let set = word.compare_exchange(raw.0, used, Ordering::AcqRel, Ordering::Acquire);
                Some(set.is_ok())
            }
            (false, AccessedBits::NotSet) => {
                (F::CLEAR_ACCESSED == ClearAccessed::Passes).then_some(true)
            }
        }
    }
}

/// Whoever objects does so with locks held, and what is dropped then takes them again.
fn unpoisoned<G>(locked: LockResult<G>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}

impl Registers {
    pub(crate) fn sub_page_root(&self, page: usize) -> Option<Upper> {
        let table = self.sub_page_roots[page / self.pages]?;
        Some(Upper { table, ..self.root(page) })
    }

    fn root(&self, page: usize) -> Upper {
        let pages = 1 << self.level.get();
        let (space, place) = (page / self.pages, page % self.pages / pages);
        let table = self.roots[space] + place as u64;
        Upper { first: page & !(pages - 1), pages, level: self.level, table, open: true }
    }
}

/// What hardware says of what must not be, once its window is closed.
pub(crate) type Objection = &'static str;

/// Whether a closed table is invalid for this hardware.
fn parks<F: Format>() -> bool {
    F::CLOSED_TABLE == ClosedTable::Parked
}

pub(crate) fn below(level: Level) -> Level {
    level.below().expect("a table is not at the last level")
}

/// What the hypervisor of this machine brings.
pub struct Embed<F>(pub Arc<Hardware<F>>);

impl<F: Format> Embedder for Embed<F> {
    fn allocate_frame(&self) -> Option<Frame> {
        self.allocate_roots(1)
    }

    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        Some(self.0.frames().make(tables as usize))
    }

    fn release_frame(&self, frame: Frame) {
        self.release_roots(frame, 1);
    }

    fn release_roots(&self, first: Frame, tables: u32) {
        let first = usize::try_from(first.pfn().get()).expect("small");
        let mut frames = self.0.frames();
        frames.released[first..first + tables as usize].fill(true);
    }

    fn shoot_down(&self, _: Scope) {
        self.0.step();
        for cpu in 0..VCPUS {
            self.0.window(cpu).forget_all();
        }
        let also = unpoisoned(self.0.also.lock()).clone();
        also.into_iter().for_each(|also| also());
    }

    /// One vCPU after the other leaves its guest, hands over, and goes on.
    fn drain_logs(&self, log: &mut dyn FnMut(AddressSpace, u64)) {
        let _alone = unpoisoned(self.0.draining.lock());
        for cpu in 0..VCPUS {
            let logged = self.0.window(cpu).take_logged();
            logged.into_iter().for_each(|page| log(AddressSpace::NORMAL, page_address(page)));
        }
    }

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        loom::thread::yield_now();
    }

    /// Nothing: a vCPU forgets an address that faults.
    fn flush_local(&self, _: Gpa) {}

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        self.0.step();
        let frame = Pfn::new(self.0.host(host_page(page)) as u64);
        Some(Backing {
            frame,
            write: BackingWrite::Allowed,
            largest: *unpoisoned(self.0.leaves.lock()),
        })
    }

    fn write(&self, page: GuestPage, _: u64, bytes: &[u8]) -> Result<(), NoBacking> {
        self.0.write(host_page(page), u64::from(bytes[0]));
        Ok(())
    }
}

/// As hardware writes it, in the first address space.
fn page_address(page: usize) -> u64 {
    Gfn::new(page as u64).gpa().get()
}

/// A slot's memory is named by the first of its pages in the machine's memory.
fn host_page(page: GuestPage) -> usize {
    usize::try_from(page.memory.0 + page.index).expect("small")
}
