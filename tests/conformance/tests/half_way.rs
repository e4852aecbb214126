//! Memory runs out half-way through a call that tracks, restricts or listens: at the k-th allocation,
//! for every k that occurs. Nothing has changed, and the same call made again succeeds.
#![allow(unsafe_code)]

mod owned;

use owned::{Recorder, SPACE, slot, vm, write_fault};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Arc;
use vellum_conformance::hypervisor::{Hypervisor, Memory, Snapshot};
use vellum_mmu::*;
use vellum_pte::{Ept, Gfn, SubPageMap};

/// The system's allocator, until the count of this thread ends.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What becomes of the library's next allocations on this thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Supply {
    /// There is no end of it.
    Plenty,
    /// So many succeed before one fails; then there is plenty.
    Left(u64),
}

thread_local! {
    static SUPPLY: Cell<Supply> = const { Cell::new(Supply::Plenty) };
}

/// Counts one allocation. Says whether it may be made.
fn may_allocate() -> bool {
    // A thread that is ending has none any more, and calls no library.
    match SUPPLY.try_with(Cell::get) {
        Ok(Supply::Left(0)) => {
            SUPPLY.set(Supply::Plenty);
            false
        }
        Ok(Supply::Left(left)) => {
            SUPPLY.set(Supply::Left(left - 1));
            true
        }
        Ok(Supply::Plenty) | Err(_) => true,
    }
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
        let supply = SUPPLY.replace(Supply::Plenty);
        let done = work();
        SUPPLY.set(supply);
        done
    }
}

type Vm = Mmu<Ept, Hypervisor<Limited>>;

/// Neighbours far up in page numbers, so that each has several levels of its own. A list of 512 pages
/// over their border has chunks in both.
const SLOTS: [(u64, u64); 2] = [(0, 1 << 20), (1 << 20, 1 << 20)];
const BORDER: u64 = SLOTS[1].0;
const WRITE: TrackMode = TrackMode::Write;

fn fresh(sub_pages: SubPageHardware) -> Arc<Vm> {
    let config = Config { sub_pages, address_bits: Some(48), ..Config::default() };
    let mmu = vm(Hypervisor::default(), config, &SLOTS);
    for page in watched() {
        assert!(matches!(write_fault(&mmu, page), Outcome::Mapped | Outcome::Spurious));
    }
    mmu
}

/// Pages that the calls below are about, and their neighbours.
fn watched() -> impl Iterator<Item = u64> {
    BORDER - 300..BORDER + 300
}

/// All that a call which ran out of memory could have changed; but it may have kept the memory it got.
#[derive(PartialEq, Debug)]
struct Image {
    tables: Snapshot,
    tracked: Vec<bool>,
    maps: Option<Vec<SubPageMap>>,
}

fn image(mmu: &Vm) -> Image {
    let mut maps = vec![SubPageMap::NONE; 600];
    let read = |maps: &mut [SubPageMap], first| {
        mmu.sub_pages(SubPageRange::new(SPACE, Gfn::new(first)), maps).is_ok()
    };
    let (lower, upper) = maps.split_at_mut(300);
    let active = read(lower, BORDER - 300) && read(upper, BORDER);
    Image {
        tables: mmu.embedder().snapshot(),
        tracked: watched().map(|page| mmu.is_tracked(SPACE, Gfn::new(page), WRITE)).collect(),
        maps: active.then_some(maps),
    }
}

/// Makes the call with memory that ends at each of its allocations in turn, and once more then. Returns
/// how many there are.
fn at_each_allocation<T, E: PartialEq + Debug>(
    prepare: impl Fn() -> Arc<Vm>,
    error: E,
    call: impl Fn(&Arc<Vm>) -> Result<T, E>,
    done: impl Fn(&Vm),
) -> u64 {
    for k in 0.. {
        let mmu = prepare();
        let before = image(&mmu);
        SUPPLY.set(Supply::Left(k));
        let answer = call(&mmu);
        if SUPPLY.replace(Supply::Plenty) != Supply::Plenty {
            assert!(answer.is_ok(), "with all the memory it wants");
            done(&mmu);
            return k;
        }
        assert_eq!(answer.map(drop).expect_err("it had no memory"), error, "allocation {k}");
        assert_eq!(image(&mmu), before, "allocation {k}");
        assert!(call(&mmu).is_ok(), "a second time, after allocation {k}");
        done(&mmu);
    }
    unreachable!("there are so many numbers")
}

fn both_forms(law: impl Fn(SubPageHardware)) {
    [SubPageHardware::Absent, SubPageHardware::Present].into_iter().for_each(law);
}

/// On the stack: what is allocated in a call is the library's.
fn list() -> [SubPageMap; MAX_SUB_PAGE_MAPS] {
    std::array::from_fn(|page| SubPageMap::new(!(1 << (page % 32))))
}

#[test]
fn a_set_that_runs_out_of_memory_half_way_has_set_no_map() {
    let first = BORDER - 256;
    both_forms(|hardware| {
        let prepare = || {
            let mmu = fresh(hardware);
            mmu.activate_sub_pages().expect("memory");
            mmu
        };
        let allocations = at_each_allocation(
            prepare,
            SubPageError::OutOfMemory(OutOfMemory),
            |mmu| mmu.set_sub_pages(SubPageRange::new(SPACE, Gfn::new(first)), &list()),
            |mmu| {
                for (page, map) in (first..).zip(list()) {
                    let gpa = Gfn::new(page).gpa();
                    let denied = Outcome::Denied(Denial { gpa, map });
                    let outcome = write_fault(mmu, page);
                    assert_eq!(outcome == denied, !map.allows(0), "page {page:#x}: {outcome:?}");
                }
            },
        );
        // A chunk and two nodes over it in one slot, and a chunk in the other.
        assert!(allocations >= 4, "{allocations} allocations");
    });
}

#[test]
fn a_page_that_there_is_no_memory_for_is_not_tracked() {
    let prepare = || {
        let mmu = fresh(SubPageHardware::Absent);
        mmu.enable_tracking().expect("the memory is open");
        mmu
    };
    let page = Gfn::new(BORDER - 1);
    let allocations = at_each_allocation(
        prepare,
        TrackError::OutOfMemory(OutOfMemory),
        |mmu| mmu.track(SPACE, page, WRITE),
        |mmu| {
            assert_eq!(write_fault(mmu, BORDER - 1), Outcome::Emulate);
            mmu.untrack(SPACE, page, WRITE).expect("it is tracked");
            let again = mmu.untrack(SPACE, page, WRITE);
            assert_eq!(again, Err(TrackError::NotTracked(page)), "once, and not twice");
        },
    );
    assert!(allocations >= 2, "{allocations} allocations");
}

#[test]
fn sub_pages_that_there_is_no_memory_for_are_not_active() {
    both_forms(|hardware| {
        let allocations = at_each_allocation(
            || fresh(hardware),
            ActivateError::OutOfMemory(OutOfMemory),
            |mmu| mmu.activate_sub_pages(),
            |mmu| assert!(image(mmu).maps.is_some()),
        );
        assert_eq!(allocations > 0, hardware == SubPageHardware::Present, "tables cost memory");
    });
}

#[test]
fn a_listener_that_there_is_no_memory_for_is_not_kept() {
    let listener = Arc::new(Recorder::default());
    let allocations = at_each_allocation(
        || fresh(SubPageHardware::Absent),
        ListenError::OutOfMemory(OutOfMemory),
        |mmu| {
            let registered =
                Mmu::listen(mmu.clone(), listener.clone()).map(Registration::unregister);
            assert_eq!(Arc::strong_count(&listener), 1, "nobody keeps the listener");
            registered
        },
        |mmu| mmu.track(SPACE, Gfn::new(BORDER), WRITE).expect("it is on"),
    );
    assert!(allocations > 0);
}

/// A slot with maps and counts is deleted and moved without a byte more.
#[test]
fn a_slot_with_maps_and_counts_moves_and_goes_without_memory() {
    let mmu = fresh(SubPageHardware::Present);
    mmu.activate_sub_pages().expect("memory");
    mmu.enable_tracking().expect("the memory is open");
    let range = SubPageRange::new(SPACE, Gfn::new(BORDER));
    mmu.set_sub_pages(range, &list()).expect("memory");
    mmu.track(SPACE, Gfn::new(BORDER + 8), WRITE).expect("memory");
    let here = slot(1, BORDER, SLOTS[1].1);
    let there = SlotSpec { range: slot(1, BORDER * 4, SLOTS[1].1).range, ..here };
    SUPPLY.set(Supply::Left(0));
    let moved = mmu.change_slot(there);
    assert_eq!(SUPPLY.replace(Supply::Left(0)), Supply::Left(0), "it asks for none");
    assert_eq!(moved, Ok(()));
    let gone = mmu.delete_slot(there.id);
    assert_eq!(SUPPLY.replace(Supply::Plenty), Supply::Left(0), "it asks for none");
    assert_eq!(gone, Ok(()));
}
