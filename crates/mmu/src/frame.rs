//! Table frames: the one place where the library touches a hardware table.
#![allow(unsafe_code)]

use crate::sync::{AtomicU64, Ordering};
use core::marker::PhantomData;
use core::ptr::NonNull;
use vellum_pte::{Format, Level, Pfn, Raw, TableFormat};

/// One entry of a hardware table, as memory. An `AtomicU64` (loom's own under loom).
pub type EntryWord = AtomicU64;

/// Entries of 64 bits in a frame.
const ENTRIES_A_FRAME: usize = 512;

/// A frame for one hardware table, on loan from the embedder.
#[derive(Debug)]
pub struct Frame {
    pfn: Pfn,
    entries: NonNull<EntryWord>,
}

// SAFETY: it owns its memory, and all access to it is atomic (T1).
unsafe impl Send for Frame {}
// SAFETY: as above.
unsafe impl Sync for Frame {}

impl Frame {
    /// A frame that hardware knows as `pfn` and the library reaches at `entries`.
    ///
    /// # Safety
    /// `entries` points to as many entries as the format's tables have (512 in a frame of 4 KiB),
    /// all zero and aligned to the table's size. Until the frame is released, they stay valid,
    /// and only hardware walking the table and the library access them.
    #[must_use]
    pub const unsafe fn from_raw(pfn: Pfn, entries: NonNull<EntryWord>) -> Self {
        Self { pfn, entries }
    }

    /// Its host frame number, for the entry above it.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The frame `place` frames further on, of those that were allocated side by side.
    pub(crate) const fn beside(&self, place: u32) -> Self {
        let pfn = Pfn::new(self.pfn.get() + place as u64);
        // SAFETY: `Embedder::allocate_roots` promises as many frames as roots were asked for.
        let entries = unsafe { self.entries.add(place as usize * ENTRIES_A_FRAME) };
        Self { pfn, entries }
    }

    /// Where its entries are: what was given to [`from_raw`](Self::from_raw).
    #[must_use]
    pub const fn entries(&self) -> NonNull<EntryWord> {
        self.entries
    }
}

/// A frame read and written as a table of format `F`. Hardware may be walking it at any time, so
/// there is no `&mut` to an entry (T1).
#[derive(Debug)]
pub(crate) struct TableFrame<F> {
    frame: Frame,
    format: PhantomData<F>,
}

impl<F: TableFormat> TableFrame<F> {
    pub(crate) const ENTRIES: usize = 1 << F::INDEX_BITS;

    pub(crate) const fn new(frame: Frame) -> Self {
        Self { frame, format: PhantomData }
    }

    pub(crate) const fn pfn(&self) -> Pfn {
        self.frame.pfn
    }

    pub(crate) fn into_frame(self) -> Frame {
        self.frame
    }

    #[inline]
    pub(crate) fn entry(&self, index: usize) -> EntryCell<'_> {
        assert!(index < Self::ENTRIES, "an index has INDEX_BITS bits");
        // SAFETY: below ENTRIES, so inside the frame, by the promise of `from_raw`.
        let word = unsafe { self.frame.entries.add(index) };
        // SAFETY: valid until the frame is released, which takes `self` (F1); shared and atomic
        // access only (T1).
        EntryCell(unsafe { word.as_ref() })
    }
}

/// One entry of a linked table. Names the memory orderings; `docs/ordering.md` has the partners.
#[derive(Clone, Copy)]
pub(crate) struct EntryCell<'a>(&'a EntryWord);

impl EntryCell<'_> {
    /// Acquire: what was done before the entry was written is seen (a table behind it is zeroed,
    /// a debt behind a cleared W is counted).
    #[inline]
    pub(crate) fn load(self) -> Raw {
        Raw(self.0.load(Ordering::Acquire))
    }

    /// Acquire and release, whole value: hardware's A and D bits are never overwritten (T1).
    #[inline]
    pub(crate) fn compare_exchange(self, current: Raw, new: Raw) -> Result<(), Raw> {
        self.0
            .compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Raw)
    }

    /// Writes an entry that was absent, under the table's lock. Release: what it points to is
    /// ready.
    #[inline]
    pub(crate) fn publish(self, new: Raw) {
        self.0.store(new.0, Ordering::Release);
    }

    /// Makes the entry absent, whatever hardware does to it meanwhile.
    pub(crate) fn clear(self) -> Raw {
        Raw(self.0.swap(Raw::ABSENT.0, Ordering::AcqRel))
    }

    /// Takes storability away. Says whether there was any. Of an entry that points to a table,
    /// only for a settle.
    #[inline]
    pub(crate) fn close<F: TableFormat>(self) -> Closed {
        self.close_while::<F>(F::is_storable)
    }

    /// Takes storability from a leaf, and leaves an entry alone that points to a table (it may have
    /// become one).
    #[inline]
    pub(crate) fn close_leaf<F: Format>(self, level: Level) -> Closed {
        self.close_while::<F>(|raw| F::is_storable(raw) && F::is_leaf(raw, level))
    }

    #[inline]
    fn close_while<F: TableFormat>(self, may_close: impl Fn(Raw) -> bool) -> Closed {
        let mut raw = self.load();
        while may_close(raw) {
            match self.compare_exchange(raw, F::close(raw)) {
                Ok(()) => return Closed::Now,
                Err(newer) => raw = newer,
            }
        }
        Closed::Before
    }

    /// Makes a leaf neither storable nor liftable. Says whether it was storable.
    pub(crate) fn deny_leaf<F: Format>(self, level: Level) -> Closed {
        let mut raw = self.load();
        while F::is_leaf(raw, level) && F::deny(raw) != raw {
            match self.compare_exchange(raw, F::deny(raw)) {
                Ok(()) if F::is_storable(raw) => return Closed::Now,
                Ok(()) => return Closed::Before,
                Err(newer) => raw = newer,
            }
        }
        Closed::Before
    }

    /// Takes D from an entry of the last level. Says whether it had it.
    pub(crate) fn take_dirty<F: TableFormat>(self) -> Closed {
        let mut raw = self.load();
        while F::is_dirty(raw) {
            match self.compare_exchange(raw, F::clear_dirty(raw)) {
                Ok(()) => return Closed::Now,
                Err(newer) => raw = newer,
            }
        }
        Closed::Before
    }

    /// Takes A from a leaf. Says whether it had it.
    pub(crate) fn take_accessed<F: Format>(self, level: Level) -> Closed {
        let mut raw = self.load();
        while F::is_leaf(raw, level) && F::is_accessed(raw) {
            match self.compare_exchange(raw, F::clear_accessed(raw)) {
                Ok(()) => return Closed::Now,
                Err(newer) => raw = newer,
            }
        }
        Closed::Before
    }

    /// Gives storability to an entry that points to a table, under the table's lock.
    pub(crate) fn open<F: TableFormat>(self) {
        let mut raw = self.load();
        while let Err(newer) = self.compare_exchange(raw, F::open(raw)) {
            raw = newer;
        }
    }
}

/// Whether something was taken from an entry that a TLB may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closed {
    /// Until now it was there (storability, for [`EntryCell::close`]): some TLB may hold it so.
    Now,
    /// It was not there. Some TLB may hold it so all the same, if a debt is outstanding (F2).
    Before,
}
