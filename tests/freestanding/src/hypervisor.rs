//! All that this hypervisor brings: frames from a static pool, and no other CPU to shoot down.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use vellum_mmu::{Backing, BackingWrite, Embedder, Frame, GuestPage, NoBacking, Scope};
use vellum_pte::{Level, Pfn};

const FRAMES: usize = 32;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u64; 512]; FRAMES]>);

// SAFETY: frames are handed out once each, by `NEXT`, and used through atomics alone.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([[0; 512]; FRAMES]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// One CPU, one VM.
pub(crate) struct Bare;

impl Embedder for Bare {
    fn allocate_frame(&self) -> Option<Frame> {
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        if index >= FRAMES {
            return None;
        }
        // SAFETY: `index` is inside the pool.
        let first = unsafe { POOL.0.get().cast::<AtomicU64>().add(index * 512) };
        let entries = NonNull::new(first)?;
        // SAFETY: 4 KiB, aligned, zeroed, ours alone, and static.
        Some(unsafe { Frame::from_raw(Pfn::of_address(entries.as_ptr().addr() as u64), entries) })
    }

    fn release_frame(&self, _: Frame) {}

    fn shoot_down(&self, _: Scope) {}

    fn has_barrier_all(&self) -> bool {
        false
    }

    fn barrier_all(&self) {}

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let frame = Pfn::new(0x10_0000 + page.gfn.get());
        Some(Backing { frame, write: BackingWrite::Allowed, largest: Level::L1 })
    }

    fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> {
        Err(NoBacking)
    }
}
