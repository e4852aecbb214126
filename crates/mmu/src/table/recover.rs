//! Getting a huge leaf back: zap, flush, install.
//!
//! Never in one step, on any format: processors with both sizes of an executable page in their
//! instruction TLB may raise a machine check (Intel's "iTLB multihit").

use super::{Graveyard, Table};
use crate::counters::Event;
use crate::embedder::Embedder;
use crate::vm_context::Context;
use vellum_pte::{Entry, Format, Gfn, Leaf, Level, Pfn, Raw, Write};

/// A table that a huge leaf may replace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recoverable {
    /// Its first page.
    pub(crate) first: Gfn,
    /// The level of the entry above it.
    pub(crate) level: Level,
    /// The first host frame.
    pub(crate) frame: Pfn,
}

/// One whose table is buried and whose entry is frozen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buried {
    place: Recoverable,
    table: Pfn,
}

impl<F: Format> Table<F> {
    /// Whether nothing is mapped by the table below entry `index`, or there is none.
    pub(crate) fn maps_nothing(&self, index: usize) -> bool {
        self.child(index).is_none_or(Self::is_empty)
    }

    /// Buries the table and freezes its entry, with faults kept out. `None` if it is not there.
    pub(crate) fn bury(
        &mut self,
        place: Recoverable,
        graveyard: &mut Graveyard<F>,
    ) -> Option<Buried> {
        let index = self.index(place.first);
        if self.level() > place.level {
            let child = self.children.get_mut(index)?.get_mut()?;
            return child.bury(place, graveyard);
        }
        let table = self.child(index)?.pfn();
        self.unlink(index, graveyard);
        self.entry(index).publish(self.frozen(table));
        Some(Buried { place, table })
    }
}

impl Buried {
    /// Where it was.
    pub(crate) const fn place(&self) -> Recoverable {
        self.place
    }

    /// Puts a huge leaf there, or nothing if the memory behind it has changed, below `root`.
    /// `leaf` is asked under the lock of the entry's table. Says whether it is there.
    pub(crate) fn install<F: Format, E: Embedder>(
        self,
        root: &Table<F>,
        context: Context<'_, E>,
        leaf: impl FnOnce() -> Option<Write>,
    ) -> Option<()> {
        let above = root.lowest(self.place.first);
        let index = above.index(self.place.first);
        let locked = above.lock(context);
        let write = leaf();
        let raw = write.map_or(Raw::ABSENT, |write| above.leaf_of(self.place.frame, write));
        above.entry(index).compare_exchange(above.frozen(self.table), raw).ok()?;
        if write? == Write::Storable {
            above.writable().insert(index);
        }
        drop(locked);
        context.count(Event::Recovered);
        Some(())
    }
}

impl<F: Format> Table<F> {
    /// A leaf of this table, as a fault makes one: used, and where storable *opened*, so that a
    /// store passes on hardware that sets neither A nor D.
    pub(crate) fn leaf_of(&self, frame: Pfn, write: Write) -> Raw {
        let encode = |write| {
            let leaf = Leaf { accessed: true, ..Leaf::new(frame, write) };
            F::encode(Entry::Leaf(leaf), self.level())
        };
        match write {
            Write::Storable => F::open(encode(Write::Liftable)),
            Write::Liftable | Write::Denied | Write::Partial => encode(write),
        }
    }
}
