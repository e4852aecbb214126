//! A bitmap for `vm-memory` that reports writes instead of keeping them.

use crate::mark::Mark;
use std::fmt;
use std::sync::Arc;
use vellum_pte::{AddressSpace, Gpa};
use vm_memory::MmapRegion;
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

/// The bitmap of a `vm-memory` region whose writes are to be logged: it holds no bits, it tells a
/// [`Mark`] of each write, as pages, after it was made.
///
/// It logs, and no more: it can neither refuse a write nor tell anybody before it is made. What must
/// be denied or announced goes through the MMU's `GuestWriter`. And it hears of those writes only that
/// `vm-memory` reports to a bitmap: all of `Bytes`, of `VolatileSlice`, `VolatileRef` and
/// `VolatileArrayRef`, and none that is made through a pointer or reference they give out
/// (`ptr_guard_mut`, `get_host_address`, `get_atomic_ref`, ...). Whoever writes through one of those
/// calls [`Bitmap::mark_dirty`] of the slice, or [`Mark::mark_bytes`], **when the write is made**: for
/// an asynchronous read into guest memory, on completion and not on submission.
///
/// [`logged_view`](super::logged_view) puts it over memory that exists. Who makes the mapping gives it
/// to `MmapRegionBuilder::new_with_bitmap`. It has no `Default` and no `NewBitmap`: one that reports to
/// nobody would lose writes in silence.
pub struct Logged<M> {
    marks: M,
    space: AddressSpace,
    base: Gpa,
    /// For a view: what the region's pointer points into. Never taken out (V).
    keeps: Option<Arc<MmapRegion>>,
}

/// A part of a [`Logged`], as `vm-memory` hands it out with each slice.
pub struct LoggedSlice<'a, M> {
    logged: &'a Logged<M>,
    offset: usize,
}

impl<M> Logged<M> {
    /// For a region that begins at `base` in `space`.
    pub fn new(marks: M, space: AddressSpace, base: Gpa) -> Self {
        Self { marks, space, base, keeps: None }
    }

    /// The same, and `region` lives as long.
    #[cfg(unix)]
    pub(super) fn keeping(self, region: Arc<MmapRegion>) -> Self {
        Self { keeps: Some(region), ..self }
    }

    fn at(&self, offset: usize) -> Gpa {
        Gpa::new(self.base.get().saturating_add(offset as u64))
    }
}

impl<'a, M: Mark + 'static> WithBitmapSlice<'a> for Logged<M> {
    type S = LoggedSlice<'a, M>;
}

impl<M: Mark + 'static> Bitmap for Logged<M> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.marks.mark_bytes(self.space, self.at(offset), len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.marks.is_marked(self.space, self.at(offset).gfn())
    }

    fn slice_at(&self, offset: usize) -> LoggedSlice<'_, M> {
        LoggedSlice { logged: self, offset }
    }
}

impl<M: Mark + 'static> WithBitmapSlice<'_> for LoggedSlice<'_, M> {
    type S = Self;
}

impl<M: Mark + 'static> BitmapSlice for LoggedSlice<'_, M> {}

impl<M: Mark + 'static> Bitmap for LoggedSlice<'_, M> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.logged.mark_dirty(self.offset.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.logged.dirty_at(self.offset.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { logged: self.logged, offset: self.offset.saturating_add(offset) }
    }
}

impl<M> Clone for LoggedSlice<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for LoggedSlice<'_, M> {}

impl<M> fmt::Debug for Logged<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.keeps.is_some() { "view" } else { "region" };
        write!(f, "Logged({kind} at {} of {:?})", self.base, self.space)
    }
}

impl<M> fmt::Debug for LoggedSlice<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {:#x}", self.logged, self.offset)
    }
}
