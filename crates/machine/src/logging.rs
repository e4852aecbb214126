//! What of a board logs its guest's writes.

use crate::log::Track;
use vellum_mmu::{Again, DirtyBits, RingSize};

/// What logs writes, beside faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Logging {
    /// Whether processors do, by D bits. [`DirtyBits::Logged`] is Intel's page-modification log.
    pub dirty_bits: DirtyBits,
    /// Whether each port has a dirty ring, and how large.
    pub ring: Option<RingSize>,
    /// How stores to pages that were taken out of rings are made to fault again.
    pub again: Again,
}

impl Default for Logging {
    /// Nothing: pages are write-protected, and slots have bitmaps.
    fn default() -> Self {
        Self { dirty_bits: DirtyBits::Unused, ring: None, again: Again::Pages }
    }
}

impl Logging {
    /// Entries of a port's ring, if nobody says otherwise.
    const RING: u32 = 4096;

    /// What a way of tracking needs.
    ///
    /// # Panics
    /// Never: the ring's size is one.
    #[must_use]
    pub fn of(track: Track) -> Self {
        let logging = |dirty_bits| Self { dirty_bits, ..Self::default() };
        match track {
            Track::PerPage | Track::ProtectAll | Track::Manual => Self::default(),
            Track::DirtyBits => logging(DirtyBits::Scanned),
            Track::Pml => logging(DirtyBits::Logged),
            Track::Ring => {
                let ring = RingSize::new(Self::RING, 0).expect("a power of two above the reserve");
                Self { ring: Some(ring), ..Self::default() }
            }
        }
    }
}
