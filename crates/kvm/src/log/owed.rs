//! What one round owes the next.

use vellum_memory::{Layout, PageSet};

/// Pages that the next round has. Mostly they are none, and then nobody looks at the set: it is cold.
pub(super) struct Owed {
    pages: PageSet,
    since: Since,
}

/// What has happened since a round was last handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Since {
    /// Nothing: no page is owed.
    Nothing,
    /// Pages were added.
    Added,
}

impl Owed {
    pub(super) fn none(layout: &Layout) -> Self {
        Self { pages: PageSet::new(layout), since: Since::Nothing }
    }

    pub(super) fn add(&mut self, pages: &PageSet) {
        self.pages.merge(pages);
        self.since = Since::Added;
    }

    pub(super) fn add_all_of(&mut self, region: usize) {
        self.pages.regions_mut()[region].fill();
        self.since = Since::Added;
    }

    pub(super) fn forget(&mut self) {
        self.pages.clear();
        self.since = Since::Nothing;
    }

    /// Adds all of them to `round`.
    pub(super) fn hand_over(&mut self, round: &mut PageSet) {
        if self.since == Since::Added {
            round.merge(&self.pages);
            self.forget();
        }
    }
}
