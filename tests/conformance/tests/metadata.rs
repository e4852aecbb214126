//! What tracking and maps of sub-pages cost, byte by byte and in the process's resident size: nothing
//! for a slot of 39 bits that nobody uses, and by the page from then on.
//!
//! One test in a process of its own: what others allocate would be counted with it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::*;
use vellum_pte::{
    AddressSpace, Ept, Format, Gfn, GfnRange, Level, Npt, PAGE_SIZE, Pfn, SlotId, Stage2,
    SubPageMap,
};

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

const SPACE: AddressSpace = AddressSpace::NORMAL;
const SLOT: SlotId = SlotId(0);
/// A slot of 39 bits: what a sandbox maps that shows a whole process to its guest. At 2 bytes a page it
/// would cost 256 MiB.
const LARGE: u64 = 1 << (39 - 12);
/// The slot of which every page is used.
const SMALL: u64 = 1 << 22;
/// How many pages of the large slot are used.
const SOME: u64 = 1000;
const MIB: u64 = 1 << 20;

/// A root table, and memory that nobody reads. Nothing is mapped.
struct Bare;

impl Embedder for Bare {
    fn allocate_frame(&self) -> Option<Frame> {
        self.allocate_roots(1)
    }

    /// Leaked: the tests end with the process.
    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        let size = 4096 * tables as usize;
        let layout = Layout::from_size_align(size, size).ok()?;
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { System.alloc_zeroed(layout) })?;
        let pfn = Pfn::of_address(memory.as_ptr().addr() as u64);
        // SAFETY: so many zeroed tables, aligned to their size, and nobody else's.
        Some(unsafe { Frame::from_raw(pfn, memory.cast()) })
    }

    fn release_roots(&self, _: Frame, _: u32) {}

    fn release_frame(&self, _: Frame) {}

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
        Some(Backing { frame, write, largest: Level::L1 })
    }

    fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> {
        Ok(())
    }
}

/// Bytes in use.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// By the allocator's count.
    counted: u64,
    /// Of this process in the host's memory, files apart.
    resident: u64,
}

fn usage() -> Usage {
    let counted = IN_USE.load(Ordering::Relaxed);
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let mut pages = statm.split(' ').map(|field| field.parse().unwrap_or(0));
    let (resident, shared): (u64, u64) = (pages.nth(1).expect("it"), pages.next().expect("it"));
    Usage { counted, resident: (resident - shared) * PAGE_SIZE }
}

/// How much more is in use after `work` than before.
fn costs<T>(work: impl FnOnce() -> T) -> (T, Usage) {
    let before = usage();
    let done = work();
    let after = usage();
    let counted = after.counted - before.counted;
    (done, Usage { counted, resident: after.resident.saturating_sub(before.resident) })
}

/// Holds a cost to a bound, and the host's view of it to the allocator's. The allocator's own part is
/// in the host's view only.
fn at_most(what: &str, Usage { counted, resident }: Usage, most: u64) {
    println!("{what}: {counted} bytes, {resident} resident");
    assert!(counted <= most, "{what}: {counted} bytes, more than {most}");
    assert!(resident.abs_diff(counted) <= MIB, "{what}: {resident} resident of {counted} bytes");
}

fn vm<F: Format>(pages: u64) -> Mmu<F, Bare> {
    let config = Config { address_bits: Some(48), ..Config::default() };
    let mmu = Mmu::new(Bare, config).expect("memory");
    let range = GfnRange::new(Gfn::new(0), pages).expect("in range");
    mmu.create_slot(SlotSpec::new(SLOT, SPACE, range)).expect("it fits");
    mmu
}

/// [`SOME`] pages of the large slot, no two of them near each other, in no order.
fn scattered() -> impl Iterator<Item = Gfn> {
    (0..SOME).map(|index| Gfn::new(index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 27)))
}

fn track<F: Format>(mmu: &Mmu<F, Bare>, gfn: Gfn) {
    mmu.track(SPACE, gfn, TrackMode::Write).expect("memory");
}

fn restrict<F: Format>(mmu: &Mmu<F, Bare>, first: Gfn, maps: &[SubPageMap]) {
    let range = SubPageRange::new(SPACE, first);
    assert_eq!(mmu.set_sub_pages(range, maps), Ok(maps.len()));
}

/// Two bytes a page and two in a hundred.
const fn two_bytes_of_each(pages: u64) -> u64 {
    pages * 2 + pages * 2 / 50
}

/// VMs that stay: what they free would be used again, and not be seen in the resident size.
fn tracking<F: Format>() -> [Mmu<F, Bare>; 2] {
    let (large, small) = (vm::<F>(LARGE), vm::<F>(SMALL));
    let ((), nothing) = costs(|| large.enable_tracking().expect("the memory is open"));
    at_most("tracking is on and nothing tracked", nothing, 0);
    let ((), some) = costs(|| scattered().for_each(|gfn| track(&large, gfn)));
    at_most("1000 scattered pages are tracked", some, 5 * MIB);
    small.enable_tracking().expect("the memory is open");
    let ((), all) = costs(|| (0..SMALL).for_each(|page| track(&small, Gfn::new(page))));
    at_most("2^22 pages are tracked", all, two_bytes_of_each(SMALL));
    let ((), more) = costs(|| scattered().for_each(|gfn| track(&large, gfn)));
    at_most("the same pages are tracked once more", more, 0);
    [large, small]
}

fn sub_pages<F: Format>() -> Mmu<F, Bare> {
    let large = vm::<F>(LARGE);
    let (form, nothing) = costs(|| large.activate_sub_pages().expect("memory"));
    assert_eq!(form, SubPageForm::ByEmulation, "tables are the processor's, and not counted here");
    at_most("sub-pages are active and none restricted", nothing, 0);
    let all = [SubPageMap::ALL; MAX_SUB_PAGE_MAPS];
    let ((), free) = costs(|| scattered().for_each(|gfn| restrict(&large, gfn, &all[..1])));
    at_most("1000 scattered pages have maps that permit everything", free, 0);
    let none = [SubPageMap::NONE; 1];
    let ((), some) = costs(|| scattered().for_each(|gfn| restrict(&large, gfn, &none)));
    at_most("1000 scattered pages have maps", some, 5 * MIB);
    large
}

fn listening<F: Format>() -> Mmu<F, Bare> {
    struct Deaf;
    impl<F: Format> WriteListener<F, Bare> for Deaf {
        fn write(&self, _: &Call<'_, F, Bare>, _: &Written<'_>) {}
    }
    let large = vm::<F>(LARGE);
    let listen = || Mmu::listen(&large, std::sync::Arc::new(Deaf)).expect("memory");
    let (registration, listener) = costs(listen);
    at_most("a listener is there, and nothing is tracked", listener, 1024);
    registration.unregister();
    large
}

#[test]
fn nothing_is_paid_for_what_nobody_uses_and_two_bytes_a_page_for_what_everybody_does() {
    let scattered: std::collections::BTreeSet<_> = scattered().collect();
    assert_eq!(scattered.len() as u64, SOME);
    // The first time, the process itself grows: its output, its allocator.
    drop((vm::<Ept>(LARGE), usage()));
    println!("warming up");
    let before = IN_USE.load(Ordering::Relaxed);
    let kept = (tracking::<Ept>(), tracking::<Npt>(), tracking::<Stage2>());
    let restricted = (sub_pages::<Ept>(), sub_pages::<Npt>(), sub_pages::<Stage2>());
    drop((kept, restricted, listening::<Ept>()));
    // The harness keeps what was printed.
    let left = IN_USE.load(Ordering::Relaxed) - before;
    assert!(left <= 16 << 10, "{left} bytes are left of VMs that are gone");
}
