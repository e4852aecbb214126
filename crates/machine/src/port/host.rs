//! Plain atomic accesses to guest RAM, for where there are no restartable sequences.
#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "an access takes the low bytes; hosts have 64-bit addresses"
)]

use crate::bus::Width;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use vellum_pte::Pfn;

/// The address in this process of bytes of guest RAM, all in one page.
///
/// It comes from a walk and is good in the walk's epoch: RAM is unmapped only after its memslot is
/// deleted, and deleting ends with a shoot-down. So an access that has looked at the epoch, and
/// that a shoot-down stops or waits for, finds the memory there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostAddress(usize);

impl HostAddress {
    /// The byte at `offset` of a frame.
    #[inline]
    pub(super) fn new(frame: Pfn, offset: u64) -> Self {
        Self((frame.address() + offset) as usize)
    }

    pub(super) fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes)
    }

    /// The bare address, for the sequences.
    #[inline]
    pub(crate) fn get(self) -> usize {
        self.0
    }

    pub(super) fn load(self, width: Width) -> u64 {
        if !self.is_aligned(width) {
            return self.load_bytes(width);
        }
        match width {
            Width::Byte => u64::from(self.cell::<AtomicU8>().load(Ordering::Acquire)),
            Width::Half => u64::from(self.cell::<AtomicU16>().load(Ordering::Acquire)),
            Width::Word => u64::from(self.cell::<AtomicU32>().load(Ordering::Acquire)),
            Width::Double => self.cell::<AtomicU64>().load(Ordering::Acquire),
        }
    }

    pub(super) fn store(self, width: Width, value: u64) {
        if !self.is_aligned(width) {
            return self.store_bytes(width, value);
        }
        match width {
            Width::Byte => self.cell::<AtomicU8>().store(value as u8, Ordering::Release),
            Width::Half => self.cell::<AtomicU16>().store(value as u16, Ordering::Release),
            Width::Word => self.cell::<AtomicU32>().store(value as u32, Ordering::Release),
            Width::Double => self.cell::<AtomicU64>().store(value, Ordering::Release),
        }
    }

    /// Of an aligned word, or double word.
    pub(super) fn compare_exchange(self, width: Width, (expected, new): (u64, u64)) -> u64 {
        // SeqCst: a guest's atomics with aq and rl set are in one order for all harts.
        match width {
            Width::Double => self
                .cell::<AtomicU64>()
                .compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst)
                .unwrap_or_else(|held| held),
            _ => u64::from(
                self.cell::<AtomicU32>()
                    .compare_exchange(
                        expected as u32,
                        new as u32,
                        Ordering::SeqCst,
                        Ordering::SeqCst,
                    )
                    .unwrap_or_else(|held| held),
            ),
        }
    }

    fn load_bytes(self, width: Width) -> u64 {
        (0..width.bytes() as usize).rev().fold(0, |value, index| {
            let byte = self.offset(index).cell::<AtomicU8>().load(Ordering::Acquire);
            value << 8 | u64::from(byte)
        })
    }

    fn store_bytes(self, width: Width, value: u64) {
        let bytes = value.to_le_bytes();
        for (index, &byte) in bytes.iter().enumerate().take(width.bytes() as usize) {
            self.offset(index).cell::<AtomicU8>().store(byte, Ordering::Release);
        }
    }

    fn is_aligned(self, width: Width) -> bool {
        (self.0 as u64).is_multiple_of(width.bytes())
    }

    /// The caller has checked the alignment.
    fn cell<'a, T: Atomic>(self) -> &'a T {
        let place: *const T = std::ptr::with_exposed_provenance(self.0);
        // SAFETY: the type's documentation says why the memory is there; it is one of the integer
        // atomics, for which any bytes are valid and shared access is free of data races, and the
        // address is aligned for it.
        unsafe { &*place }
    }
}

/// The integer atomics.
trait Atomic {}
impl Atomic for AtomicU8 {}
impl Atomic for AtomicU16 {}
impl Atomic for AtomicU32 {}
impl Atomic for AtomicU64 {}
