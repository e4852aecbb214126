//! What should be the case.

use crate::lab::page;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use vellum_pte::{Gpa, SubPageMap};

/// The first eight bytes of a sub-page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) index: u64,
    pub(super) sub_page: u64,
}

const SUB_PAGE_BYTES: u64 = 128;

impl Place {
    pub(super) fn gpa(self) -> Gpa {
        Gpa::new(page(self.index).get() + self.offset())
    }

    const fn offset(self) -> u64 {
        self.sub_page * SUB_PAGE_BYTES
    }
}

pub(super) struct Model {
    values: BTreeMap<Place, u64>,
    /// `None` while there is no log.
    stored: Option<BTreeSet<u64>>,
    maps: BTreeMap<u64, SubPageMap>,
    pub(super) tracked: BTreeSet<u64>,
}

impl Model {
    /// Memory of zeros, logged.
    pub(super) fn new() -> Self {
        Self {
            values: BTreeMap::new(),
            stored: Some(BTreeSet::new()),
            maps: BTreeMap::new(),
            tracked: BTreeSet::new(),
        }
    }

    pub(super) fn at(&self, place: Place) -> u64 {
        self.values.get(&place).copied().unwrap_or(0)
    }

    /// Stores, unless that is denied: whether it was done.
    pub(super) fn store(&mut self, place: Place, value: u64) -> bool {
        let permitted = self.maps.get(&place.index).is_none_or(|map| map.allows(place.offset()));
        if permitted {
            self.values.insert(place, value);
            self.stored.as_mut().map(|stored| stored.insert(place.index));
        }
        permitted
    }

    /// What was stored to since the last time, in order; `None` while there is no log.
    pub(super) fn harvest(&mut self) -> Option<Vec<u64>> {
        self.stored.as_mut().map(|stored| core::mem::take(stored).into_iter().collect())
    }

    pub(super) const fn is_logged(&self) -> bool {
        self.stored.is_some()
    }

    pub(super) fn stop_log(&mut self) {
        self.stored = None;
    }

    /// Nothing was stored to so far.
    pub(super) fn start_log(&mut self) {
        self.stored = Some(BTreeSet::new());
    }

    pub(super) fn restrict(&mut self, index: u64, map: SubPageMap) {
        self.maps.insert(index, map);
    }

    pub(super) fn restricted(&self) -> Vec<u64> {
        self.maps.keys().copied().collect()
    }

    /// The slot was made anew: its memory is what it was, and all else is gone.
    pub(super) fn forget(&mut self) {
        let values = core::mem::take(&mut self.values);
        *self = Self { values, ..Self::new() };
    }
}
