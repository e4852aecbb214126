//! Memory runs out at the library's k-th allocation, for every k that occurs: the call says so,
//! the VM works, nothing is lost, and the same call made again succeeds.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use vellum_conformance::hypervisor::{
    Backings, Change, Hypervisor, Memory, OnRetry, PageLogging, Rule, VirtualCpu,
};
use vellum_conformance::model::{RingShape, Stays};
use vellum_conformance::scene::{Exactness, Ground, Op, OutOfMemory, Scene};
use vellum_mmu::{
    AccessedBits, Again, Config, DirtyBits, Initial, LogMode, Mmu, SlotAccess, SubPageHardware,
};
use vellum_pte::{AddressSpace, Ept, Format, Npt, Stage2};

/// The system's allocator, until the count of this thread ends.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What becomes of the library's allocations on this thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Supply {
    /// So many succeed before one fails.
    Left(u64),
    /// One failed; the others succeed.
    Failed,
}

/// Whose allocations these are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    Library,
    Suite,
}

thread_local! {
    static SUPPLY: Cell<Supply> = const { Cell::new(Supply::Failed) };
    static WHOSE: Cell<Whose> = const { Cell::new(Whose::Suite) };
}

/// Counts one allocation. Says whether it may be made.
fn may_allocate() -> bool {
    // A thread that is ending has neither any more, and calls no library.
    if WHOSE.try_with(Cell::get) != Ok(Whose::Library) {
        return true;
    }
    match SUPPLY.get() {
        Supply::Failed => return true,
        Supply::Left(0) => SUPPLY.set(Supply::Failed),
        Supply::Left(left) => SUPPLY.set(Supply::Left(left - 1)),
    }
    SUPPLY.get() != Supply::Failed
}

// SAFETY: memory is the system's, or there is none, which an allocator may say at any time.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !may_allocate() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !may_allocate() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Frames run out with the rest; the hypervisor's bookkeeping does not count.
#[derive(Debug, Default)]
struct Limited;

impl Memory for Limited {
    fn has_frame(&self) -> bool {
        may_allocate()
    }

    fn unlimited<T>(&self, work: impl FnOnce() -> T) -> T {
        unlimited(work)
    }
}

fn unlimited<T>(work: impl FnOnce() -> T) -> T {
    let whose = WHOSE.replace(Whose::Suite);
    let done = work();
    WHOSE.set(whose);
    done
}

/// Calls the library, again if it had no memory: the second time it has.
fn twice<T, E: std::fmt::Debug>(mut call: impl FnMut() -> Result<T, E>) -> T {
    let mut counted = || {
        WHOSE.set(Whose::Library);
        let answer = call();
        WHOSE.set(Whose::Suite);
        answer
    };
    counted().or_else(|_| counted()).expect("memory is back")
}

/// More CPUs than the library has places for at first.
const CPUS: usize = 40;

fn create(id: u16, space: u16, (first, pages): (u64, u64), log: LogMode) -> Op {
    Op::Create { id, space, first, pages, access: SlotAccess::ReadWrite, log }
}

fn store(cpu: usize, page: u64) -> Op {
    Op::Store { cpu, page, word: 0, value: page + 1 }
}

/// Everything that allocates, and what must not notice. Slot 1 has room for a huge leaf.
fn scenario() -> Vec<Op> {
    let mut ops = vec![
        create(0, 0, (0, 600), LogMode::On),
        create(1, 0, (600, 900), LogMode::Off),
        create(2, 1, (3, 1000), LogMode::On),
        Op::Mark { space: 0, page: 70 },
        Op::DeviceWrite { space: 1, at: 4090, bytes: vec![1; 20] },
    ];
    ops.extend((0..16).map(|index| store(index, index as u64 * 93)));
    ops.extend(restrictions());
    ops.extend(harvests());
    ops.extend(huge_leaves());
    ops.extend(changes());
    ops.extend(many_slots());
    ops.extend(rings());
    ops
}

/// Tracked and restricted pages, far enough from each other to be kept apart, and the tables of
/// sub-pages that stores ask for.
fn restrictions() -> Vec<Op> {
    let track = |space, page| Op::Track { space, page };
    let set = |space, first, maps| Op::SetMaps { space, first, flags: 0, maps };
    let straddle =
        |cpu, page: u64| Op::StoreBytes { cpu, at: page * 4096 + 4090, bytes: vec![9; 16] };
    let mut ops = vec![Op::EnableTracking];
    ops.extend((0..9).map(|name| Op::Listen(name, Stays::On)));
    ops.extend([Op::Listen(9, Stays::ForOneCall), track(0, 5), track(0, 1500 - 1), track(0, 600)]);
    ops.extend([track(1, 700), track(0, 5), store(0, 5), store(2, 1499), straddle(0, 599)]);
    ops.extend([Op::Activate, set(0, 100, vec![0x5555_5555; 512]), set(0, 1200, vec![0; 3])]);
    ops.extend([set(1, 500, vec![0xffff_fffe; 20]), set(0, 2, vec![0x7fff_ffff])]);
    ops.extend([store(0, 100), store(3, 611), straddle(2, 110), straddle(0, 2), store(0, 1200)]);
    ops.extend([Op::Store { cpu: 1, page: 510, word: 16, value: 7 }, store(1, 510)]);
    ops.extend([Op::TakeAll, store(3, 100), Op::TakePages(0), store(2, 100)]);
    ops.push(Op::Invalidate { first: 90, pages: 60, change: Change::Migrate, meanwhile: vec![] });
    ops.extend([store(0, 101), Op::Untrack { space: 0, page: 600 }, store(0, 600)]);
    ops.extend([set(0, 1200, vec![u32::MAX; 3]), store(2, 1201)]);
    ops.extend((1..9).map(Op::Unlisten));
    ops
}

fn harvests() -> Vec<Op> {
    let half = vec![0x5555_5555_5555_5555; 10];
    vec![
        Op::Load { cpu: 3, page: 1400, word: 1 },
        Op::TakePages(0),
        Op::Start(1, Initial::Clean),
        store(1, 0),
        store(1, 700),
        Op::TakeAll,
        store(2, 0),
        store(0, 700),
        store(1, 5),
        Op::Owe { id: 0, word: 3, mask: 0b101 },
        Op::Clear { id: 0, first: 0, pages: None, mask: half.clone() },
        store(2, 64),
        Op::Read(0),
        Op::Forget { space: 0, first: 0, pages: 66 },
        Op::Delete(0),
        create(5, 0, (10, 100), LogMode::AllSet),
        Op::Clear { id: 5, first: 0, pages: Some(64), mask: half },
        store(2, 20),
        Op::TakePages(1),
        Op::TakePages(2),
        Op::Stop(1),
        Op::Delete(1),
    ]
}

fn huge_leaves() -> Vec<Op> {
    let split = Op::SplitHuge { id: 1, frames: u64::MAX };
    vec![
        create(1, 0, (200, 1300), LogMode::Off),
        store(38, 900),
        store(2, 1000),
        Op::Start(1, Initial::Clean),
        store(39, 901),
        store(5, 1001),
        Op::TakePages(1),
        Op::Stop(1),
        Op::Start(1, Initial::AllSet),
        split,
        store(5, 1001),
        Op::Clear { id: 1, first: 768, pages: Some(64), mask: vec![0xff00] },
        Op::Age { id: 1, first: 0, pages: 1500 },
        store(6, 1001),
        Op::TakePages(1),
        Op::Stop(1),
        Op::TakePages(5),
        Op::ProtectAllOff,
        store(5, 20),
    ]
}

fn changes() -> Vec<Op> {
    let change = |id, first, log| Op::Change { id, first, log, fixed: None };
    let during = vec![store(3, 700), change(5, None, LogMode::Off), store(5, 300)];
    vec![
        change(5, None, LogMode::On),
        change(1, Some(203), LogMode::On),
        store(5, 1003),
        store(5, 20),
        change(5, Some(1600), LogMode::On),
        store(3, 1610),
        change(2, Some(30), LogMode::AllSet),
        store(1, 40),
        Op::Invalidate { first: 290, pages: 700, change: Change::Migrate, meanwhile: during },
        store(3, 700),
        store(5, 1610),
        change(1, Some(200), LogMode::Off),
        store(5, 1003),
        change(1, None, LogMode::AllSet),
        store(6, 1004),
        Op::TakeAll,
        store(6, 1004),
    ]
}

/// As many as make the library's lists grow.
fn many_slots() -> Vec<Op> {
    let slots = (100..140).map(|id| create(id, 1, (1100 + u64::from(id), 1), LogMode::On));
    slots.chain([store(1, 1210), Op::TakePages(110)]).collect()
}

/// More pages than a ring has entries, vCPUs that go and come, and both ways to take entries back. Slot 2
/// is logged.
fn rings() -> Vec<Op> {
    let flood = Op::Flood { cpu: 1, first: 100, pages: 140 };
    vec![
        store(1, 90),
        Op::HarvestRings,
        Op::ResetRings(Again::Pages),
        flood.clone(),
        Op::Leave(1),
        Op::Leave(4),
        store(1, 91),
        store(4, 92),
        Op::HarvestRings,
        store(4, 93),
        Op::ResetRings(Again::Everything),
        flood,
        Op::TakePages(2),
        Op::Leave(7),
    ]
}

/// What the VM is like.
#[derive(Clone, Copy, Debug)]
struct Hardware {
    address_bits: u32,
    backings: Backings,
    accessed: AccessedBits,
    dirty_bits: DirtyBits,
    rings: Option<RingShape>,
}

/// How often the scenario was told that there is no memory.
fn run<F: Format>(hardware: Hardware, exactness: Exactness) -> u64 {
    let Hardware { address_bits, backings, accessed, dirty_bits, rings } = hardware;
    let sub_pages = SubPageHardware::Present;
    let config = Config {
        spaces: 2,
        address_bits: Some(address_bits),
        accessed,
        sub_pages,
        dirty_bits,
        ring: rings.map(RingShape::size),
        ..Config::default()
    };
    let page_logs = match dirty_bits {
        DirtyBits::Logged => PageLogging::Kept,
        DirtyBits::Unused | DirtyBits::Scanned => PageLogging::Absent,
    };
    let rule = Rule { backings, skew: 1 << 18 };
    let mmu = twice(|| {
        let hypervisor = unlimited(|| Hypervisor::with_memory(Limited).backed_by(rule));
        let hypervisor = hypervisor.with_accessed_bits(accessed).with_page_logs(page_logs);
        Mmu::<F, _>::new(hypervisor, config)
    });
    let cpu = |number| {
        let space = AddressSpace(u16::from(number % 3 == 1));
        let cpu = twice(|| VirtualCpu::new(&mmu, number, space));
        (space, cpu.that(OnRetry::GivesUp))
    };
    let ground = Ground { grain: backings.grain(), ..Ground::of_bits(address_bits) };
    let mut scene = Scene::new(&mmu, mmu.embedder(), (0..CPUS).map(cpu).collect(), ground);
    scene.exactness = exactness;
    scene.logs_by(dirty_bits, rings);
    scene.before_call = || WHOSE.set(Whose::Library);
    scene.after_call = || WHOSE.set(Whose::Suite);
    let mut told = 0;
    for op in scenario() {
        if scene.apply(&op) == Err(OutOfMemory) {
            told += 1;
            assert_eq!(scene.apply(&op), Ok(()), "{op:?} again");
        }
    }
    scene.finish();
    told
}

fn survives_every_failure<F: Format>(address_bits: u32, accessed: AccessedBits) {
    let (dirty_bits, rings) = (DirtyBits::Unused, None);
    for backings in [Backings::Small, Backings::Large] {
        survives_each::<F>(Hardware { address_bits, backings, accessed, dirty_bits, rings });
    }
}

fn survives_every_failure_by_dirty_bits<F: Format>(address_bits: u32) {
    let (backings, accessed) = (Backings::Large, AccessedBits::Set);
    let (dirty_bits, rings) = (DirtyBits::Scanned, None);
    survives_each::<F>(Hardware { address_bits, backings, accessed, dirty_bits, rings });
}

fn survives_every_failure_with_rings<F: Format>(address_bits: u32, dirty_bits: DirtyBits) {
    let (backings, accessed) = (Backings::Large, AccessedBits::Set);
    let rings = Some(RingShape::least(dirty_bits));
    survives_each::<F>(Hardware { address_bits, backings, accessed, dirty_bits, rings });
}

fn survives_each<F: Format>(hardware: Hardware) {
    let mut failures = 0;
    let mut told = 0;
    loop {
        SUPPLY.set(Supply::Left(failures));
        told += run::<F>(hardware, Exactness::ByGroups);
        if SUPPLY.get() != Supply::Failed {
            break;
        }
        failures += 1;
    }
    SUPPLY.set(Supply::Left(failures));
    let told_now = run::<F>(hardware, Exactness::Exact);
    assert_eq!(told_now, 0, "so many allocations are all there are");
    assert_eq!(SUPPLY.get(), Supply::Left(0), "and each of them failed once");
    assert!(failures > 150 && told > 100, "{failures} failures, {told} of them seen by operations");
}

#[test]
fn no_failed_allocation_loses_anything_on_x86() {
    survives_every_failure::<Ept>(48, AccessedBits::NotSet);
    survives_every_failure::<Npt>(48, AccessedBits::Set);
    survives_every_failure_by_dirty_bits::<Ept>(48);
}

#[test]
fn no_failed_allocation_loses_anything_on_arm() {
    survives_every_failure::<Stage2>(40, AccessedBits::Set);
    survives_every_failure::<Stage2>(36, AccessedBits::NotSet);
    survives_every_failure_by_dirty_bits::<Stage2>(40);
}

#[test]
fn no_failed_allocation_loses_anything_that_rings_and_page_logs_have() {
    survives_every_failure_with_rings::<Npt>(48, DirtyBits::Unused);
    survives_every_failure_with_rings::<Ept>(48, DirtyBits::Logged);
}
