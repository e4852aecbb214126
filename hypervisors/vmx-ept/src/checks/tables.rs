//! The library's tables as the processor walks them, to be looked at and damaged.
#![allow(unsafe_code)]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;
use vellum_pte::{Gpa, Level, Pfn};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The entry for `gpa` in the table at `level`, from the root of a tree of four levels. EPT and
/// sub-page tables are indexed alike (Intel SDM vol. 3C, 29.3.2 and 29.3.4). The VM has tables down
/// to there, and keeps them as long as the entry is looked at.
pub(super) fn entry(root: Pfn, gpa: Gpa, level: Level) -> &'static AtomicU64 {
    let mut table = root.address();
    let mut at = Level::L4;
    loop {
        let index = gpa.get() >> (12 + 9 * (u32::from(at.get()) - 1)) & 0x1ff;
        let place = (table + index * 8) as *const AtomicU64;
        // SAFETY: memory is mapped one to one, and a linked table's entries are atomics to all.
        let entry = unsafe { &*place };
        match at.below() {
            Some(below) if at > level => {
                table = entry.load(SeqCst) & ADDRESS;
                assert_ne!(table, 0, "a table is linked for {gpa} at {below:?}");
                at = below;
            }
            _ => return entry,
        }
    }
}

/// Sets an entry to what `damage` makes of it, does `meanwhile`, and sets it back.
pub(super) fn damaged<T>(
    entry: &AtomicU64,
    damage: impl FnOnce(u64) -> u64,
    meanwhile: impl FnOnce() -> T,
) -> T {
    let whole = entry.load(SeqCst);
    entry.store(damage(whole), SeqCst);
    let result = meanwhile();
    entry.store(whole, SeqCst);
    result
}
