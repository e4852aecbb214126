//! A dirty bitmap that somebody else fills: a vhost back-end, in memory shared with it.

use crate::layout::{Layout, Region};
use crate::page_set::{PageSet, index, words_of};
use crate::source::{DirtySource, LogState, Misuse};
use alloc::collections::TryReserveError;
use core::convert::Infallible;
use core::error::Error;
use core::fmt;
// Never loom's: these cells are in memory that is shared with others.
use core::sync::atomic::{AtomicU64, Ordering, fence};
use vellum_pte::{AddressSpace, Gfn};

/// The dirty log of a writer outside: one bit a page, set in a bitmap that is shared with it and that
/// nobody but this clears.
///
/// The form is that of vhost's and vhost-user's log: bit `n % 8` of byte `n / 8` is page `n` of the
/// guest, counted from guest physical address 0 (`VHOST_LOG_PAGE` is 4 KiB); read as words, they are
/// little-endian on every host.
///
/// What the writer owes, and nobody here can check:
/// - it sets a page's bit **after** it has written the page, atomically (others share the byte), and
///   with release order or stronger;
/// - from the return of [`ForeignWriter::start_logging`] on it does so for every write. What it
///   still holds back, in a cache of bits as DPDK has it, is not lost but comes later; *paused*
///   means that it holds back nothing (vhost-user: the rings are stopped).
///
/// A writer that keeps to this gets D1. One that does not can lose **its own** writes, and hurt nobody
/// else: bits of pages that are in no region are never looked at, a round takes every word once
/// however fast bits are set, and a bit that is set for nothing costs one page sent. Memory that the
/// other side can truncate under the mapping is a bus error before it is a bitmap: seal it.
///
/// Pages of `owe` are kept here, not in the shared bitmap, where others could clear them.
pub struct ForeignLog<B, W> {
    bits: B,
    writer: W,
    layout: Layout,
    space: AddressSpace,
    owed: PageSet,
    state: LogState,
}

/// The words of a bitmap in shared memory. With the feature `vm-memory`, `guest::MappedBits` is one
/// over a mapping.
pub trait SharedBits {
    /// The `index`-th word, or `None` past the end. The end does not move; if it does, what lies past
    /// it counts as dirty.
    fn word(&self, index: usize) -> Option<&AtomicU64>;
}

impl<T: AsRef<[AtomicU64]> + ?Sized> SharedBits for T {
    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.as_ref().get(index)
    }
}

/// Whoever sets the bits, as far as it has to be told. For vhost-user, starting is
/// `VHOST_USER_SET_LOG_BASE`, then `VHOST_USER_SET_FEATURES` with `VHOST_F_LOG_ALL` and the rings'
/// addresses again with `VHOST_VRING_F_LOG`.
pub trait ForeignWriter {
    /// Why it could not be told.
    type Error: Error + Send + Sync + 'static;

    /// Makes it set bits: on return, it does so for every write from then on. It may do so already, and
    /// then does it all the same.
    ///
    /// # Errors
    /// It is not known to log.
    fn start_logging(&mut self) -> Result<(), Self::Error>;

    /// Lets it stop.
    ///
    /// # Errors
    /// It goes on, or has stopped and could not say so.
    fn stop_logging(&mut self) -> Result<(), Self::Error>;
}

/// A writer that sets bits whether anybody asks or not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AlwaysLogs;

impl ForeignWriter for AlwaysLogs {
    type Error = Infallible;

    fn start_logging(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn stop_logging(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Why there is no log of a bitmap.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BitmapError {
    /// It ends before a region of the layout does: writes to what it has no bits for would be lost.
    #[error("the bitmap has no bit for {page}, the last page of region {region}")]
    TooShort {
        /// The region's place in the layout.
        region: usize,
        /// Its last page.
        page: Gfn,
    },
    /// No memory for the set of owed pages, a bit a page.
    #[error("no memory for the set of owed pages: {0}")]
    OutOfMemory(#[from] TryReserveError),
}

/// Why an operation on a foreign log failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ForeignError<E: Error + 'static> {
    /// The caller got something wrong.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The writer could not be told to start or to stop.
    #[error("the writer of the bitmap: {0}")]
    Writer(#[source] E),
}

impl<B: SharedBits, W: ForeignWriter> ForeignLog<B, W> {
    /// A log that has not started, of what `writer` sets in `bits`. It is about the regions of
    /// `space`, the address space that the writer writes to; the others of `layout` never have dirty
    /// pages here.
    ///
    /// # Errors
    /// [`BitmapError`].
    pub fn new(
        layout: &Layout,
        space: AddressSpace,
        bits: B,
        writer: W,
    ) -> Result<Self, BitmapError> {
        for (region, Region { range, .. }) in in_space(layout, space) {
            let page = Gfn::new(range.end().get() - 1);
            if bits.word(index(page.get() / 64)).is_none() {
                return Err(BitmapError::TooShort { region, page });
            }
        }
        let owed = PageSet::try_new(layout)?;
        Ok(Self { bits, writer, layout: layout.clone(), space, owed, state: LogState::Off })
    }

    /// The writer, to be told more.
    pub fn writer_mut(&mut self) -> &mut W {
        &mut self.writer
    }

    /// Takes the bits of every region out: region, its word and its bits. On return, the pages may
    /// be read.
    fn take(&self, mut taken: impl FnMut(usize, u64, u64)) {
        for (region, Region { range, .. }) in in_space(&self.layout, self.space) {
            let first = range.first().get();
            for (word, mask) in words_of(first, range.pages()) {
                let found = self.take_word(word, mask);
                if found != 0 {
                    spread(word * 64, found, first, |word, bits| taken(region, word, bits));
                }
            }
        }
        // For a writer that has a barrier, finds its bit set and leaves it at that: its write is
        // seen by whoever reads the page now.
        fence(Ordering::SeqCst);
    }

    /// Takes the bits of `mask` out of a word and leaves the others, which are another region's or
    /// nobody's.
    fn take_word(&self, word: u64, mask: u64) -> u64 {
        let Some(cell) = self.bits.word(index(word)) else { return mask };
        let theirs = mask.to_le();
        if cell.load(Ordering::Relaxed) & theirs == 0 {
            return 0;
        }
        // Acquire: pairs with the writer's release.
        u64::from_le(cell.fetch_and(!theirs, Ordering::Acquire)) & mask
    }
}

impl<B: SharedBits, W: ForeignWriter> DirtySource for ForeignLog<B, W> {
    type Error = ForeignError<W::Error>;

    fn method(&self) -> &'static str {
        "foreign bitmap"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A log that is on begins anew. Its writer is told again: if it could not be told to stop, nobody
    /// knows whether it did.
    fn start(&mut self) -> Result<(), Self::Error> {
        // Leftovers first: what is set from here on stays.
        self.take(|_, _, _| ());
        self.owed.clear();
        self.state = LogState::Off;
        self.writer.start_logging().map_err(ForeignError::Writer)?;
        self.state = LogState::On;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Self::Error> {
        if self.state == LogState::On {
            self.writer.stop_logging().map_err(ForeignError::Writer)?;
            self.state = LogState::Off;
        }
        Ok(())
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), Self::Error> {
        self.state.may_add(round, &self.layout)?;
        let sets = round.regions_mut();
        self.take(|region, word, bits| sets[region].insert_word(word, bits));
        round.merge(&self.owed);
        self.owed.clear();
        Ok(())
    }

    fn owe(&mut self, pages: &PageSet) {
        self.owed.merge(pages);
    }
}

/// The regions of one address space, with their places.
fn in_space(
    layout: &Layout,
    space: AddressSpace,
) -> impl Iterator<Item = (usize, &Region)> + use<'_> {
    layout.regions().iter().enumerate().filter(move |(_, region)| region.space == space)
}

/// Turns the bits of the pages from `at` on into words of a region that begins at page `first`: where
/// that is no multiple of 64, a word becomes two. Bits of pages before it are none.
fn spread(at: u64, bits: u64, first: u64, mut word: impl FnMut(u64, u64)) {
    let Some(offset) = at.checked_sub(first) else {
        return word(0, bits >> (first - at));
    };
    let (place, shift) = (offset / 64, offset % 64);
    word(place, bits << shift);
    if shift != 0 {
        word(place + 1, bits >> (64 - shift));
    }
}

impl<B, W> fmt::Debug for ForeignLog<B, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ForeignLog");
        debug.field("space", &self.space).field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
