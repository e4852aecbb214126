//! Words of guest memory, accessed at once as processors do.
#![allow(clippy::cast_possible_truncation, reason = "a word has 32 bits")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vm_memory::{AtomicAccess, Bytes, VolatileMemory, VolatileSlice};

/// Writes `bytes` to a slice as long: at once, where a processor would.
pub(super) fn write_at_once(at: &VolatileSlice<'_>, bytes: &[u8]) {
    let at_once = match bytes.len() {
        2 => store::<2, u16>(at, bytes, u16::from_le_bytes),
        4 => store::<4, u32>(at, bytes, u32::from_le_bytes),
        8 => store::<8, u64>(at, bytes, u64::from_le_bytes),
        _ => None,
    };
    if at_once.is_none() {
        at.copy_from(bytes);
    }
}

/// `None` where the slice is not aligned for `T`.
fn store<const N: usize, T: AtomicAccess>(
    at: &VolatileSlice<'_>,
    bytes: &[u8],
    value: fn([u8; N]) -> T,
) -> Option<()> {
    let value = value(bytes.try_into().ok()?);
    // Release, as a hart's own stores.
    at.store(value, 0, Ordering::Release).ok()
}

/// What the slice held; `None` where it is not aligned.
pub(super) fn exchange_double(at: &VolatileSlice<'_>, expected: u64, new: u64) -> Option<u64> {
    let word = at.get_atomic_ref::<AtomicU64>(0).ok()?;
    // SeqCst, as a hart's own atomics.
    let held = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
    Some(held.unwrap_or_else(|held| held))
}

/// The same for a word, by the low bytes of `expected`.
pub(super) fn exchange_word(at: &VolatileSlice<'_>, expected: u64, new: [u8; 4]) -> Option<u64> {
    let word = at.get_atomic_ref::<AtomicU32>(0).ok()?;
    let (expected, new) = (expected as u32, u32::from_le_bytes(new));
    let held = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
    Some(u64::from(held.unwrap_or_else(|held| held)))
}
