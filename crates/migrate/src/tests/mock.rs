//! A guest with one vCPU that stores, a log that can be told to fail, and a host to arrive on.

use crate::wire::Refusal;
use crate::*;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vellum_memory::guest::{
    Bytes, GuestAddress, GuestMemoryMmap, PAGE_BYTES, Page, read_page, write_page,
};
use vellum_memory::{
    AddressSpace, DirtySource, Gfn, GfnRange, Layout, PAGE_SIZE, PageSet, Region, SlotId,
};

/// How the log of a mock works, after those that exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// `collect` takes and clears.
    Clearing,
    /// `collect` only looks; `protect` takes and clears, range by range.
    Manual,
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plant {
    Nothing,
    StartFails,
    /// The k-th collect fails.
    CollectFails(u32),
    /// The k-th protect fails.
    ProtectFails(u32),
    SaveFails,
    StopFails,
    /// The log forgets this page of the last region, always.
    Loses(u64),
    /// While a stretch of the last region is being protected, the guest stores to this page of it.
    StoresDuringProtect(u64),
    /// While a stretch of the last region is protected, this page of the first one, which was sent
    /// already, becomes dirty and is put into the round.
    AddsBehind(u64),
}

/// An error on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("planted")]
pub(super) struct Planted;

/// The vCPU's habits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Habit {
    Idle,
    /// Stores to random pages of the first so many, of each region.
    Stores(u64),
}

struct Log {
    on: bool,
    dirty: PageSet,
    taken: PageSet,
    owed: PageSet,
    collects: u32,
    protects: u32,
}

pub(super) struct Shared {
    memory: GuestMemoryMmap,
    layout: Layout,
    log: Mutex<Log>,
    running: Mutex<bool>,
    wake: Condvar,
    ended: AtomicBool,
    stores: AtomicU64,
    random: AtomicU64,
    resumes: AtomicU32,
}

pub(super) struct MockLog {
    shared: Arc<Shared>,
    way: Way,
    pub(super) plant: Plant,
}

/// A guest, as source and as arrival.
pub(super) struct Machine {
    pub(super) shared: Arc<Shared>,
    pub(super) log: MockLog,
    vcpu: Option<JoinHandle<()>>,
    pub(super) restore_fails: bool,
    fresh: Fresh,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Machine(running: {})", self.is_running())
    }
}

/// Two regions that end within a word of the bitmap, in an order that is not that of their slots.
pub(super) fn two_regions() -> Layout {
    layout(&[(3, 0x100, 67), (1, 0x1000, 5000)])
}

pub(super) fn layout(regions: &[(u16, u64, u64)]) -> Layout {
    let region = |&(slot, first, pages)| Region {
        slot: SlotId(slot),
        space: AddressSpace::NORMAL,
        range: GfnRange::new(Gfn::new(first), pages).expect("in range"),
    };
    Layout::new(regions.iter().map(region).collect()).expect("no overlap")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no mock panics with a lock")
}

impl Shared {
    fn new(layout: &Layout, running: bool) -> Arc<Self> {
        let ranges: Vec<_> = layout
            .regions()
            .iter()
            .map(|region| {
                let start = GuestAddress(region.range.first().gpa().get());
                (start, (region.range.pages() * PAGE_SIZE) as usize)
            })
            .collect();
        let empty = PageSet::new(layout);
        Arc::new(Self {
            memory: GuestMemoryMmap::from_ranges(&ranges).expect("memory for a test"),
            layout: layout.clone(),
            log: Mutex::new(Log {
                on: false,
                dirty: empty.clone(),
                taken: empty.clone(),
                owed: empty,
                collects: 0,
                protects: 0,
            }),
            running: Mutex::new(running),
            wake: Condvar::new(),
            ended: AtomicBool::new(false),
            stores: AtomicU64::new(0),
            random: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            resumes: AtomicU32::new(0),
        })
    }

    /// One store of the guest, logged.
    fn store(&self, log: &mut Log, region: usize, page: u64, value: u64) {
        let range = self.layout.regions()[region].range;
        let address = (range.first().get() + page) * PAGE_SIZE + value % 512 * 8;
        self.memory.write_obj(value, GuestAddress(address)).expect("in memory");
        if log.on {
            log.dirty.regions_mut()[region].insert(page);
        }
    }

    /// One store, logged, from outside the vCPU.
    pub(super) fn store_now(&self, region: usize, page: u64, value: u64) {
        self.store(&mut lock(&self.log), region, page, value);
    }

    /// A page filled with zeros, logged, from outside the vCPU.
    pub(super) fn clear_now(&self, region: usize, page: u64) {
        let mut log = lock(&self.log);
        let gfn = Gfn::new(self.layout.regions()[region].range.first().get() + page);
        write_page(&self.memory, gfn, &[0; PAGE_BYTES]).expect("in memory");
        log.dirty.regions_mut()[region].insert(page);
    }

    /// One step of the vCPU, while it runs.
    fn step(&self, habit: Habit) {
        let mut running = lock(&self.running);
        while !*running && !self.ended.load(Ordering::Relaxed) {
            running = self.wake.wait(running).expect("no mock panics with a lock");
        }
        if !*running {
            return;
        }
        if let Habit::Stores(pages) = habit {
            let mut random = self.random.load(Ordering::Relaxed);
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            self.random.store(random, Ordering::Relaxed);
            let region = (random >> 60) as usize % self.layout.regions().len();
            let most = pages.min(self.layout.regions()[region].range.pages());
            self.store(&mut lock(&self.log), region, (random >> 8) % most, random);
        }
        self.stores.fetch_add(1, Ordering::Relaxed);
        drop(running);
        thread::yield_now();
    }
}

impl Machine {
    /// A running guest.
    pub(super) fn start(layout: &Layout, habit: Habit, way: Way) -> Self {
        Self::build(layout, habit, way, true)
    }

    fn build(layout: &Layout, habit: Habit, way: Way, running: bool) -> Self {
        let shared = Shared::new(layout, running);
        let theirs = shared.clone();
        let vcpu = thread::spawn(move || {
            while !theirs.ended.load(Ordering::Relaxed) {
                theirs.step(habit);
            }
        });
        let log = MockLog { shared: shared.clone(), way, plant: Plant::Nothing };
        Self { shared, log, vcpu: Some(vcpu), restore_fails: false, fresh: Fresh::Zeros }
    }

    pub(super) fn is_running(&self) -> bool {
        *lock(&self.shared.running)
    }

    /// How often it was resumed.
    pub(super) fn resumes(&self) -> u32 {
        self.shared.resumes.load(Ordering::Relaxed)
    }

    /// Whether its log is on.
    pub(super) fn is_logged(&self) -> bool {
        lock(&self.shared.log).on
    }

    /// Whether everything that was ever taken from its log was owed again.
    pub(super) fn owes_all_it_gave(&self) -> bool {
        let log = lock(&self.shared.log);
        let pairs = log.taken.regions().iter().zip(log.owed.regions());
        pairs.clone().all(|(taken, owed)| taken.pages().all(|page| owed.contains(page)))
    }

    pub(super) fn collects(&self) -> u32 {
        lock(&self.shared.log).collects
    }

    pub(super) fn taken(&self) -> u64 {
        lock(&self.shared.log).taken.count()
    }

    /// Waits until its vCPU has made further steps.
    pub(super) fn await_steps(&self) {
        let before = self.shared.stores.load(Ordering::Relaxed);
        while self.shared.stores.load(Ordering::Relaxed) < before + 3 {
            thread::yield_now();
        }
    }

    pub(super) fn fill(&self, region: usize, page: u64, byte: u8) {
        let gfn = self.gfn(region, page);
        write_page(&self.shared.memory, gfn, &[byte; PAGE_BYTES]).expect("in memory");
    }

    pub(super) fn page(&self, region: usize, page: u64) -> Page {
        let mut content = [0; PAGE_BYTES];
        let gfn = self.gfn(region, page);
        read_page(&self.shared.memory, gfn, &mut content).expect("in memory");
        content
    }

    fn gfn(&self, region: usize, page: u64) -> Gfn {
        Gfn::new(self.shared.layout.regions()[region].range.first().get() + page)
    }

    /// The first page that differs.
    pub(super) fn differs_from(&self, other: &Self) -> Option<(usize, u64)> {
        let regions = self.shared.layout.regions().iter().enumerate();
        regions
            .flat_map(|(index, region)| (0..region.range.pages()).map(move |page| (index, page)))
            .find(|&(region, page)| self.page(region, page) != other.page(region, page))
    }

    /// Stops its vCPU for good.
    pub(super) fn freeze(&self) {
        *lock(&self.shared.running) = false;
    }

    fn run(&self) {
        *lock(&self.shared.running) = true;
        self.shared.resumes.fetch_add(1, Ordering::Relaxed);
        self.shared.wake.notify_all();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        {
            let _running = lock(&self.shared.running);
            self.shared.wake.notify_all();
        }
        if let Some(vcpu) = self.vcpu.take() {
            vcpu.join().expect("the vCPU does not panic");
        }
    }
}

impl SourceGuest for Machine {
    type Memory = GuestMemoryMmap;
    type Dirty = MockLog;
    type Error = Planted;

    fn identity(&self) -> Vec<u8> {
        b"mock".to_vec()
    }
    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        &self.shared.memory
    }
    fn dirty(&mut self) -> &mut MockLog {
        &mut self.log
    }
    fn pause(&mut self) {
        assert!(self.is_running(), "paused twice");
        self.freeze();
    }
    fn resume(&mut self) {
        assert!(!self.is_running(), "resumed while it runs");
        self.run();
    }
    fn save_state(&mut self) -> Result<Vec<u8>, Planted> {
        assert!(!self.is_running(), "saved while it runs");
        match self.log.plant {
            Plant::SaveFails => Err(Planted),
            _ => Ok(self.shared.random.load(Ordering::Relaxed).to_le_bytes().to_vec()),
        }
    }
}

impl IncomingGuest for Machine {
    type Memory = GuestMemoryMmap;
    type Error = Planted;

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        &self.shared.memory
    }
    fn fresh(&self) -> Fresh {
        self.fresh
    }
    fn restore(&mut self, state: &[u8]) -> Result<(), Planted> {
        match state.try_into() {
            Ok(bytes) if !self.restore_fails => {
                self.shared.random.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Planted),
        }
    }
    fn resume(&mut self) {
        self.run();
    }
}

impl MockLog {
    fn range_to_words(index: usize, range: GfnRange, layout: &Layout) -> std::ops::Range<u64> {
        let region = layout.regions()[index].range;
        let first = region.offset_of(range.first()).expect("a range of the region");
        first / 64..(first + range.pages()).div_ceil(64)
    }
}

impl DirtySource for MockLog {
    type Error = Planted;

    fn method(&self) -> &'static str {
        "mock"
    }

    fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    fn start(&mut self) -> Result<(), Planted> {
        let mut log = lock(&self.shared.log);
        if self.plant == Plant::StartFails {
            return Err(Planted);
        }
        log.on = true;
        log.dirty.clear();
        log.taken.clear();
        log.owed.clear();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Planted> {
        if self.plant == Plant::StopFails {
            return Err(Planted);
        }
        lock(&self.shared.log).on = false;
        Ok(())
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), Planted> {
        let mut log = lock(&self.shared.log);
        assert!(log.on, "collected while off");
        log.collects += 1;
        if self.plant == Plant::CollectFails(log.collects) {
            return Err(Planted);
        }
        if let Plant::Loses(page) = self.plant {
            let last = log.dirty.regions().len() - 1;
            log.dirty.regions_mut()[last].remove(page);
        }
        round.merge(&log.dirty);
        if self.way == Way::Clearing {
            let Log { dirty, taken, .. } = &mut *log;
            taken.merge(dirty);
            dirty.clear();
        }
        Ok(())
    }

    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), Planted> {
        let last = self.shared.layout.regions().len() - 1;
        // Before the log's lock, as the vCPU takes them.
        let running = *lock(&self.shared.running);
        let mut log = lock(&self.shared.log);
        log.protects += 1;
        match self.plant {
            Plant::ProtectFails(k) if k == log.protects => return Err(Planted),
            // A paused guest does not store.
            Plant::StoresDuringProtect(page) if region == last && running => {
                self.shared.store(&mut log, last, page, 0x1234_5678 + page);
            }
            Plant::AddsBehind(page) if region == last && running => {
                self.shared.store(&mut log, 0, page, 0x1234_5678 + page);
                if self.way == Way::Clearing {
                    log.dirty.regions_mut()[0].remove(page);
                    log.taken.regions_mut()[0].insert(page);
                    round.regions_mut()[0].insert(page);
                }
            }
            _ => {}
        }
        let words = Self::range_to_words(region, range, &self.shared.layout);
        let Log { dirty, taken, .. } = &mut *log;
        let dirty = &mut dirty.regions_mut()[region];
        for word in words {
            let mask = dirty.word(word);
            round.regions_mut()[region].insert_word(word, mask);
            taken.regions_mut()[region].insert_word(word, mask);
            (0..64)
                .filter(|bit| mask >> bit & 1 != 0)
                .for_each(|bit| dirty.remove(word * 64 + bit));
        }
        Ok(())
    }

    fn owe(&mut self, pages: &PageSet) {
        let mut log = lock(&self.shared.log);
        assert!(log.on, "owed to a log that is off is owed to nobody");
        log.dirty.merge(pages);
        log.owed.merge(pages);
    }
}

/// A host to arrive on.
#[derive(Default)]
pub(super) struct Host {
    /// What its memory holds before anything arrives.
    pub(super) before: u8,
    pub(super) refusal: Option<Refusal>,
    pub(super) restore_fails: bool,
}

impl Destination for Host {
    type Guest = Machine;

    fn prepare(&mut self, identity: &[u8], layout: &Layout) -> Result<Machine, Refusal> {
        assert_eq!(identity, b"mock");
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let mut machine = Machine::build(layout, Habit::Stores(40), Way::Clearing, false);
        machine.restore_fails = self.restore_fails;
        if self.before != 0 {
            machine.fresh = Fresh::Anything;
            for (index, region) in layout.regions().iter().enumerate() {
                (0..region.range.pages()).for_each(|page| machine.fill(index, page, self.before));
            }
        }
        Ok(machine)
    }
}

/// A socket of its own for every test.
pub(super) fn socket() -> Address {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("vellum-{}-{number}.socket", std::process::id());
    Address::Unix(std::env::temp_dir().join(name))
}

/// What both sides say of one attempt.
pub(super) struct Both {
    pub(super) source: Outcome<Machine>,
    pub(super) destination: Result<Served<Machine>, Failure>,
}

/// One attempt, told to `watch`, at a receiver that listens already.
pub(super) fn attempt(
    machine: Machine,
    receiver: &Receiver,
    host: &mut Host,
    options: &Options,
    watch: &mut dyn FnMut(Progress),
) -> Both {
    let limits = Limits::default();
    thread::scope(|scope| {
        let destination = scope.spawn(|| receiver.serve_one(host, &limits, &mut |_| {}));
        let source = migrate(machine, receiver.address(), options, watch);
        if matches!(source, Outcome::Kept(_)) {
            // It may not even have heard of the attempt.
            limits.cancel.cancel();
        }
        Both { source, destination: destination.join().expect("the destination does not panic") }
    })
}

/// One attempt of a fresh receiver, which must succeed: the shell and the guest.
pub(super) fn must_move(machine: Machine, host: &mut Host) -> (Moved<Machine>, Machine) {
    must_move_within(machine, host, Options::default().downtime)
}

/// The same with a downtime asked for; with none, it makes as many rounds as it may.
pub(super) fn must_move_within(
    machine: Machine,
    host: &mut Host,
    downtime: Duration,
) -> (Moved<Machine>, Machine) {
    let receiver = Receiver::bind(&socket()).expect("a fresh address");
    let options = Options { downtime, ..Options::default() };
    let both = attempt(machine, &receiver, host, &options, &mut |_| {});
    match (both.source, both.destination) {
        (Outcome::Moved(moved), Ok(Served::Arrived(received))) => (moved, received.guest),
        (source, destination) => panic!("not moved: {source:?} {destination:?}"),
    }
}

/// The guest runs here, owes what it gave, has its log off, and the next attempt moves it whole.
pub(super) fn must_be_as_before(kept: Kept<Machine>) {
    let mut guest = kept.guest;
    assert!(guest.is_running(), "it runs on");
    guest.await_steps();
    assert!(guest.owes_all_it_gave(), "D2");
    if kept.log_left_on.is_none() {
        assert!(!guest.is_logged(), "its log is off");
    } else {
        lock(&guest.shared.log).on = false;
    }
    guest.log.plant = Plant::Nothing;
    let (moved, arrived) = must_move(guest, &mut Host::default());
    assert_eq!(moved.report.verdict, Verdict::Same, "the next attempt succeeds");
    assert!(arrived.is_running());
    assert!(!moved.guest.is_running());
}
