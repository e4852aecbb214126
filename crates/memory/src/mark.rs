//! Telling a log about a write.

use alloc::sync::Arc;
use vellum_pte::{AddressSpace, Gfn, GfnRange, Gpa};

/// Somewhere to report writes that no MMU sees: a device's, the VMM's.
///
/// [`Marker`](crate::Marker) is one. Whoever holds an MMU that can be told makes another of it, and
/// then device writes are in the MMU's own log:
///
/// ```
/// # use vellum_memory::{AddressSpace, Gfn, GfnRange, Mark};
/// # struct Mmu;
/// # impl Mmu { fn mark_dirty(&self, space: AddressSpace, gfn: Gfn) {} }
/// struct InTheMmu(std::sync::Arc<Mmu>);
///
/// impl Mark for InTheMmu {
///     fn mark(&self, space: AddressSpace, range: GfnRange) {
///         for page in range.first().get()..range.end().get() {
///             self.0.mark_dirty(space, Gfn::new(page));
///         }
///     }
/// }
/// ```
pub trait Mark {
    /// Notes that the pages `range` of `space` were written. **Call it after the write**: between
    /// a mark and a write that follows it, a round can take the mark, read the page as it was, and
    /// never hear of the write.
    ///
    /// An implementation neither fails nor panics; pages that it does not log are no matter.
    fn mark(&self, space: AddressSpace, range: GfnRange);

    /// Notes that `bytes` bytes from `gpa` on were written: [`mark`](Self::mark) for the pages that
    /// they touch. None touch none; what lies past the last address is none.
    fn mark_bytes(&self, space: AddressSpace, gpa: Gpa, bytes: u64) {
        let Some(last) = bytes.checked_sub(1) else { return };
        let last = Gpa::new(gpa.get().saturating_add(last)).gfn();
        let pages = last.get() - gpa.gfn().get() + 1;
        if let Some(range) = GfnRange::new(gpa.gfn(), pages) {
            self.mark(space, range);
        }
    }

    /// Whether `gfn` is marked and not yet collected. Only a hint for whoever asks a bitmap; a log
    /// that cannot tell says no.
    fn is_marked(&self, space: AddressSpace, gfn: Gfn) -> bool {
        let _ = (space, gfn);
        false
    }
}

impl<T: Mark + ?Sized> Mark for &T {
    fn mark(&self, space: AddressSpace, range: GfnRange) {
        (**self).mark(space, range);
    }

    fn is_marked(&self, space: AddressSpace, gfn: Gfn) -> bool {
        (**self).is_marked(space, gfn)
    }
}

impl<T: Mark + ?Sized> Mark for Arc<T> {
    fn mark(&self, space: AddressSpace, range: GfnRange) {
        (**self).mark(space, range);
    }

    fn is_marked(&self, space: AddressSpace, gfn: Gfn) -> bool {
        (**self).is_marked(space, gfn)
    }
}
