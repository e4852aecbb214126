//! Which pages of a slot the guest has accessed since it was last asked.

use std::collections::BTreeSet;
use vellum_pte::{Gfn, GfnRange};

/// Where leaves are small, exactly the pages that were accessed and stayed mapped. A huge leaf is one
/// thing, and which leaves are huge is not the model's to know: so which pages must be named, and in
/// which leaves a page may be.
#[derive(Clone, Debug)]
pub struct Used {
    /// Pages of the largest leaf.
    grain: u64,
    must: BTreeSet<Gfn>,
    /// Largest leaves, by number.
    may: BTreeSet<u64>,
}

impl Used {
    pub(super) fn new(grain: u64) -> Self {
        Self { grain, must: BTreeSet::new(), may: BTreeSet::new() }
    }

    fn leaf(&self, gfn: Gfn) -> u64 {
        gfn.get() / self.grain
    }

    pub(super) fn note(&mut self, gfn: Gfn, accessed: Accessed) {
        self.may.insert(self.leaf(gfn));
        if accessed == Accessed::Yes {
            self.must.insert(gfn);
        }
    }

    /// The leaves of some pages went away, and what they knew with them.
    pub(super) fn unmapped(&mut self, range: GfnRange) {
        let (first, end) = (range.first().get(), range.end().get());
        let touched = first / self.grain..end.div_ceil(self.grain);
        let whole = first.div_ceil(self.grain)..end / self.grain;
        let grain = self.grain;
        self.must.retain(|gfn| !touched.contains(&(gfn.get() / grain)));
        self.may.retain(|leaf| !whole.contains(leaf));
    }

    /// A page was tracked or restricted: a huge leaf over it went away, and what it knew with it.
    pub(super) fn restricted(&mut self, gfn: Gfn) {
        let (grain, leaf) = (self.grain, self.leaf(gfn));
        self.must.retain(|other| grain == 1 || other.get() / grain != leaf);
    }

    pub(super) fn forget_all(&mut self) {
        self.must.clear();
        self.may.clear();
    }

    /// Huge leaves came back, and each counts as used, whichever small ones were. Where memory is
    /// being changed, nothing may have come in the small ones' place.
    pub(super) fn recovered(&mut self, range: GfnRange, memory: Meanwhile) {
        if self.grain == 1 {
            return;
        }
        let end = range.end().get().div_ceil(self.grain);
        self.may.extend(self.leaf(range.first())..end);
        if memory == Meanwhile::Changes {
            self.must.clear();
        }
    }

    /// The pages that have to be named of some.
    #[must_use]
    pub fn must_name(&self, range: GfnRange) -> BTreeSet<Gfn> {
        self.must.range(range.first()..range.end()).copied().collect()
    }

    /// Whether a page may be named.
    #[must_use]
    pub fn may_name(&self, gfn: Gfn) -> bool {
        self.may.contains(&self.leaf(gfn))
    }

    /// Some pages were asked about, and with them all that share a leaf with one.
    pub fn asked(&mut self, range: GfnRange) {
        self.unmapped(range);
    }
}

/// Whether the processor accessed a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accessed {
    /// It did.
    Yes,
    /// It tried to, or another did it in its place: that may leave a trace or none.
    Perhaps,
}

/// What the memory of a VM does while huge leaves come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meanwhile {
    /// It stays as it is.
    Stays,
    /// Some of it is being changed.
    Changes,
}
