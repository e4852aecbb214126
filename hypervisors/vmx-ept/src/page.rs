//! Pages that the processor writes to.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// A page of words that hardware and the program share. Memory is mapped one to one, so its
/// address is its physical one.
#[repr(C, align(4096))]
pub(crate) struct Page([AtomicU64; 512]);

impl Page {
    /// One of zeros.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// One of zeros, that stays where it is.
    pub(crate) fn boxed() -> Box<Self> {
        Box::new(Self::new())
    }

    /// Where it is.
    pub(crate) fn address(&self) -> u64 {
        (&raw const *self).addr() as u64
    }

    /// A word of it.
    pub(crate) fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    /// Sets a word of it.
    pub(crate) fn set(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Relaxed);
    }
}
