//! Memory runs out at the library's k-th allocation, for every k that occurs: the call says so,
//! the VM works, nothing is lost, and the same call made again succeeds.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use vellum_conformance::hypervisor::{Hypervisor, Memory, VirtualCpu};
use vellum_conformance::scene::{Exactness, Op, OutOfMemory, Scene};
use vellum_mmu::{Config, LogMode, Mmu, SlotAccess};
use vellum_pte::{AddressSpace, Ept, Format, Npt};

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
        let whose = WHOSE.replace(Whose::Suite);
        let done = work();
        WHOSE.set(whose);
        done
    }
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

/// Everything that allocates, and what must not notice.
fn scenario() -> Vec<Op> {
    let mut ops = vec![
        create(0, 0, (0, 600), LogMode::On),
        create(1, 0, (600, 900), LogMode::Off),
        create(2, 1, (3, 1000), LogMode::On),
        Op::Mark { space: 0, page: 70 },
        Op::DeviceWrite { space: 1, at: 4090, bytes: vec![1; 20] },
    ];
    ops.extend((0..16).map(|index| store(index, index as u64 * 93)));
    ops.extend([
        Op::Load { cpu: 3, page: 1400, word: 1 },
        Op::TakePages(0),
        Op::Start(1),
        store(1, 0),
        store(1, 700),
        Op::TakeAll,
        store(2, 0),
        store(0, 700),
        store(1, 5),
        Op::Owe { id: 0, word: 3, mask: 0b101 },
        Op::Delete(0),
        create(5, 0, (10, 100), LogMode::On),
        store(2, 20),
        Op::TakePages(1),
        Op::TakePages(2),
        Op::Stop(1),
        Op::Delete(1),
        create(1, 0, (200, 800), LogMode::Off),
        store(38, 900),
        Op::Start(1),
        store(39, 901),
        store(4, 900),
        Op::TakePages(5),
        Op::ProtectAllOff,
        store(4, 20),
    ]);
    ops
}

/// How often the scenario was told that there is no memory.
fn run<F: Format>(exactness: Exactness) -> u64 {
    let config = Config { spaces: 2, ..Config::default() };
    let mmu = twice(|| Mmu::<F, _>::new(Hypervisor::with_memory(Limited), config));
    let cpu = |number| {
        let space = AddressSpace(u16::from(number % 3 == 1));
        (space, twice(|| VirtualCpu::new(&mmu, number, space)))
    };
    let mut scene = Scene::new(&mmu, (0..CPUS).map(cpu).collect());
    scene.exactness = exactness;
    scene.before_call = || WHOSE.set(Whose::Library);
    scene.after_call = || WHOSE.set(Whose::Suite);
    let mut told = 0;
    for op in scenario() {
        if scene.apply(&op) == Err(OutOfMemory) {
            told += 1;
            assert_eq!(scene.apply(&op), Ok(()), "{op:?} again");
        }
    }
    scene.finish(|gfn| mmu.embedder().page(gfn));
    told
}

fn survives_every_failure<F: Format>() {
    let mut failures = 0;
    let mut told = 0;
    loop {
        SUPPLY.set(Supply::Left(failures));
        told += run::<F>(Exactness::ByGroups);
        if SUPPLY.get() != Supply::Failed {
            break;
        }
        failures += 1;
    }
    SUPPLY.set(Supply::Left(failures));
    assert_eq!(run::<F>(Exactness::Exact), 0, "so many allocations are all there are");
    assert_eq!(SUPPLY.get(), Supply::Left(0), "and each of them failed once");
    assert!(failures > 50 && told > 20, "{failures} failures, {told} of them seen by operations");
}

#[test]
fn no_failed_allocation_loses_anything() {
    survives_every_failure::<Ept>();
    survives_every_failure::<Npt>();
}
