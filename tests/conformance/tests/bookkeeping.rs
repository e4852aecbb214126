//! What the library keeps beside the hardware's tables, counted byte by byte: at most a thousandth of
//! the guest's memory with logging on, however it is mapped and written.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Level, Npt, PAGE_SIZE, Pfn};
use vellum_pte::{SlotId, Stage2};

/// The system's allocator, and how many bytes of it are in use.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static IN_USE: AtomicU64 = AtomicU64::new(0);

// SAFETY: memory is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

const SLOT: SlotId = SlotId(0);
const SPACE: AddressSpace = AddressSpace::NORMAL;
const TABLE: Layout = match Layout::from_size_align(4096, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// Table frames that are not counted, and memory that nobody reads.
struct Uncounted {
    largest: Level,
}

impl Embedder for Uncounted {
    fn allocate_frame(&self) -> Option<Frame> {
        self.allocate_roots(1)
    }

    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        let size = TABLE.size() * tables as usize;
        let layout = Layout::from_size_align(size, size).ok()?;
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { System.alloc_zeroed(layout) })?;
        let pfn = Pfn::of_address(memory.as_ptr().addr() as u64);
        // SAFETY: so many zeroed tables, aligned to their size, and nobody else's.
        Some(unsafe { Frame::from_raw(pfn, memory.cast()) })
    }

    fn release_roots(&self, first: Frame, tables: u32) {
        let size = TABLE.size() * tables as usize;
        let layout = Layout::from_size_align(size, size).expect("as it was allocated");
        // SAFETY: it was allocated so, and nobody uses it any more.
        unsafe { System.dealloc(first.entries().as_ptr().cast(), layout) };
    }

    fn release_frame(&self, frame: Frame) {
        self.release_roots(frame, 1);
    }

    fn shoot_down(&self, _: Scope) {}

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let (frame, write) = (Pfn::new(page.index), BackingWrite::Allowed);
        Some(Backing { frame, write, largest: self.largest })
    }

    fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> {
        Ok(())
    }
}

/// A guest to be counted.
struct Case {
    name: &'static str,
    bytes: u64,
    largest: Level,
    /// A page in so many is written before logging starts.
    before: u64,
    initial: Initial,
    /// A page in so many is written with logging on.
    after: u64,
}

const GIB: u64 = 1 << 30;
const NEVER: u64 = u64::MAX;
/// Pages of 2 MiB, and of 1 GiB.
const A_LEAF: u64 = 512;
const A_GIB: u64 = 512 * 512;

const CASES: [Case; 7] = [
    Case {
        name: "dense, small",
        bytes: 2 * GIB,
        largest: Level::L1,
        before: 1,
        initial: Initial::Clean,
        after: 1,
    },
    Case {
        name: "a page in each table, small",
        bytes: 16 * GIB,
        largest: Level::L1,
        before: A_LEAF,
        initial: Initial::Clean,
        after: A_LEAF,
    },
    Case {
        name: "a page in each GiB, small",
        bytes: 512 * GIB,
        largest: Level::L1,
        before: A_GIB,
        initial: Initial::Clean,
        after: A_GIB,
    },
    Case {
        name: "huge of 1 GiB, split to one page each",
        bytes: 512 * GIB,
        largest: Level::L3,
        before: A_GIB,
        initial: Initial::Clean,
        after: A_GIB,
    },
    Case {
        name: "huge, protected",
        bytes: 512 * GIB,
        largest: Level::L2,
        before: A_LEAF,
        initial: Initial::Clean,
        after: NEVER,
    },
    Case {
        name: "huge, all set",
        bytes: 512 * GIB,
        largest: Level::L2,
        before: A_LEAF,
        initial: Initial::AllSet,
        after: NEVER,
    },
    Case {
        name: "huge, split by writes",
        bytes: 16 * GIB,
        largest: Level::L2,
        before: A_LEAF,
        initial: Initial::Clean,
        after: A_LEAF,
    },
];

fn write_each<F: Format>(mmu: &Mmu<F, Uncounted>, range: GfnRange, step: u64) {
    let mut vcpu = mmu.vcpu().expect("memory");
    for index in (0..range.pages()).step_by(usize::try_from(step).expect("64 bits")) {
        let gfn = Gfn::new(range.first().get() + index);
        let outcome = vcpu.fault(SPACE, gfn.gpa(), Access::Write);
        assert!(matches!(outcome, Outcome::Mapped | Outcome::Spurious), "{outcome:?}");
    }
}

/// Bytes beside the tables, at their most.
fn counted<F: Format>(case: &Case) -> u64 {
    let before = IN_USE.load(Ordering::Relaxed);
    let config = Config { address_bits: Some(48), ..Config::default() };
    let mmu = Mmu::<F, _>::new(Uncounted { largest: case.largest }, config).expect("memory");
    let range = GfnRange::new(Gfn::new(0), case.bytes / PAGE_SIZE).expect("in range");
    mmu.create_slot(SlotSpec::new(SLOT, SPACE, range)).expect("fits");
    write_each(&mmu, range, case.before);
    mmu.start_log(SLOT, case.initial).expect("memory");
    if case.after != NEVER {
        write_each(&mmu, range, case.after);
    }
    IN_USE.load(Ordering::Relaxed) - before
}

fn is_little<F: Format>() {
    for case in &CASES {
        let bytes = counted::<F>(case);
        let name = case.name;
        println!("{} {name}: {bytes} bytes beside the tables of {} GiB", F::NAME, case.bytes / GIB);
        assert!(bytes * 1000 <= case.bytes, "{} {name}: {bytes} bytes", F::NAME);
    }
}

/// A slot of 39 bits that is not logged and not touched costs its root's pointers, and no more.
fn is_next_to_nothing<F: Format>() {
    let before = IN_USE.load(Ordering::Relaxed);
    let config = Config { address_bits: Some(48), ..Config::default() };
    let mmu = Mmu::<F, _>::new(Uncounted { largest: Level::L1 }, config).expect("memory");
    let range = GfnRange::new(Gfn::new(0), 1 << (39 - 12)).expect("in range");
    mmu.create_slot(SlotSpec::new(SLOT, SPACE, range)).expect("fits");
    let bytes = IN_USE.load(Ordering::Relaxed) - before;
    assert!(bytes <= 8192, "{}: {bytes} bytes for a slot that nobody uses", F::NAME);
}

/// One test: others would be counted with it.
#[test]
fn a_thousandth_of_the_guest_is_enough_and_an_unused_slot_costs_nothing() {
    is_little::<Ept>();
    is_little::<Npt>();
    is_little::<Stage2>();
    is_next_to_nothing::<Ept>();
    is_next_to_nothing::<Npt>();
    is_next_to_nothing::<Stage2>();
}
