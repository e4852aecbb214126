//! A dirty log for writers that no MMU sees.

mod marks;

use crate::layout::{Layout, Region};
use crate::mark::Mark;
use crate::page_set::PageSet;
use crate::source::{DirtySource, LogState, Misuse};
use crate::sync::{AtomicBool, Ordering, fence};
use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use marks::{Bug, Marks};
use vellum_pte::{AddressSpace, Gfn, GfnRange};

/// The dirty log of devices and of the VMM itself: writers report each write to a [`Marker`], and
/// this collects what they reported.
///
/// ```
/// # use vellum_memory::*;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let range = GfnRange::new(Gfn::new(0), 100).ok_or("too many pages")?;
/// # let layout = Layout::new(vec![Region { slot: SlotId(0), space: AddressSpace::NORMAL, range }])?;
/// let mut log = DeviceLog::new(&layout)?;
/// let marker = log.marker(); // one for each device; clones are cheap
/// log.start()?;
///
/// // the device: write first, then mark
/// marker.mark(AddressSpace::NORMAL, GfnRange::new(Gfn::new(7), 2).ok_or("too many pages")?);
///
/// let mut round = PageSet::new(&layout);
/// log.collect(&mut round)?;
/// assert_eq!(round.regions()[0].pages().collect::<Vec<_>>(), [7, 8]);
/// # Ok(())
/// # }
/// ```
///
/// - **Marking never fails, never allocates and never waits** (M1). The bitmap, a bit a page, is
///   there from the beginning; while the log is off a mark is one barrier and one look.
/// - **D1** holds for every writer that writes first and marks then, with an order between the two
///   on its own thread and no more: the page is in the round that takes the mark or, if a round
///   takes it before, in none too early. *Paused* includes these writers: the last round is complete
///   if each has returned from its last mark.
/// - `protect` has nothing to do: a store after `collect` marks again. `owe` marks.
///
/// There is one log to a set of markers, so that no two consumers take from each other. Dropping it
/// turns the markers off.
pub struct DeviceLog {
    shared: Arc<Shared>,
}

/// A writer's side of a [`DeviceLog`].
#[derive(Clone)]
pub struct Marker {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    on: AtomicBool,
    regions: Vec<Marks>,
}

impl DeviceLog {
    /// A log over `layout` that has not started.
    ///
    /// # Errors
    /// No memory for the bitmap: a bit a page, and a 64th of that.
    pub fn new(layout: &Layout) -> Result<Self, TryReserveError> {
        let mut regions = Vec::new();
        regions.try_reserve_exact(layout.regions().len())?;
        for region in layout.regions() {
            regions.push(Marks::try_new(region.range.pages())?);
        }
        let layout = layout.clone();
        Ok(Self { shared: Arc::new(Shared { layout, on: AtomicBool::new(false), regions }) })
    }

    /// A writer's side, for any thread.
    #[must_use]
    pub fn marker(&self) -> Marker {
        Marker { shared: self.shared.clone() }
    }
}

impl DirtySource for DeviceLog {
    type Error = Misuse;

    fn method(&self) -> &'static str {
        "device marks"
    }

    fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// A log that is on begins anew.
    fn start(&mut self) -> Result<(), Misuse> {
        self.shared.take(|_, _, _| ());
        self.shared.on.store(true, Ordering::Relaxed);
        // A writer that still finds the log off has written before this: its page is among those that
        // the consumer sends first.
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Misuse> {
        self.shared.on.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), Misuse> {
        self.shared.state().may_add(round, &self.shared.layout)?;
        let sets = round.regions_mut();
        self.shared.take(|region, word, mask| sets[region].insert_word(word, mask));
        Ok(())
    }

    fn owe(&mut self, pages: &PageSet) {
        for (marks, owed) in self.shared.regions.iter().zip(pages.regions()) {
            for (word, mask) in owed.words() {
                marks.mark_word(word, mask);
            }
        }
    }
}

impl Drop for DeviceLog {
    fn drop(&mut self) {
        self.shared.on.store(false, Ordering::Relaxed);
    }
}

impl Mark for Marker {
    #[inline]
    fn mark(&self, space: AddressSpace, range: GfnRange) {
        self.shared.mark(space, range);
    }

    fn is_marked(&self, space: AddressSpace, gfn: Gfn) -> bool {
        self.shared.is_marked(space, gfn)
    }
}

impl Shared {
    fn state(&self) -> LogState {
        if self.on.load(Ordering::Relaxed) { LogState::On } else { LogState::Off }
    }

    #[inline]
    fn mark(&self, space: AddressSpace, range: GfnRange) {
        if !self.has(Bug::LookEarly) {
            // Between the write and every look at the log, whose owner has one between its changes
            // to the log and its reading of pages.
            fence(Ordering::SeqCst);
        }
        if self.state() == LogState::Off {
            return;
        }
        for (region, marks) in self.layout.regions().iter().zip(&self.regions) {
            if let Some((first, pages)) = part_of(region, space, range) {
                marks.mark(first, pages);
            }
        }
    }

    fn is_marked(&self, space: AddressSpace, gfn: Gfn) -> bool {
        let mut regions = self.layout.regions().iter().zip(&self.regions);
        regions.any(|(region, marks)| {
            let page = region.range.offset_of(gfn).filter(|_| region.space == space);
            page.is_some_and(|page| marks.contains(page))
        })
    }

    /// Takes all marks out: region, word, bits. On return, the pages may be read.
    fn take(&self, mut taken: impl FnMut(usize, u64, u64)) {
        for (region, marks) in self.regions.iter().enumerate() {
            marks.take(|word, mask| taken(region, word, mask));
        }
        if !self.has(Bug::ReadEarly) {
            // Pairs with the one in `mark`: a writer that found its page marked already has its
            // write seen by whoever reads the page now.
            fence(Ordering::SeqCst);
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.regions.iter().any(|marks| marks.has(bug))
    }
}

/// What of `range` in `space` lies in `region`: the first page's offset there, and how many.
fn part_of(region: &Region, space: AddressSpace, range: GfnRange) -> Option<(u64, u64)> {
    let first = region.range.first().max(range.first());
    let end = region.range.end().min(range.end());
    let pages = end.checked_sub(first)?;
    (region.space == space).then_some((first.get() - region.range.first().get(), pages))
}

impl fmt::Debug for DeviceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.describe("DeviceLog", f)
    }
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.describe("Marker", f)
    }
}

impl Shared {
    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("state", &self.state()).field("layout", &self.layout).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
