//! Accesses to guest memory that a shoot-down can stop: each looks at the epoch and commits only
//! if the translation is of that epoch.
#![allow(clippy::cast_possible_truncation, reason = "a loaded word has 32 bits")]

use super::host::HostAddress;
use super::line::Line;
use super::shoot_down::{Hub, Way};
use crate::bus::Width;
use std::sync::Arc;

/// A port's way to memory.
pub(super) struct Window<'b> {
    hub: &'b Hub,
    line: Arc<Line>,
    way: Way,
}

/// A translation as an access needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Where the bytes are, good in `epoch`.
    pub(super) host: HostAddress,
    /// When the walk that found it began.
    pub(super) epoch: u64,
}

/// The part of a store that lies in one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub(super) at: Target,
    pub(super) bytes: u64,
    /// Its low bytes are stored.
    pub(super) value: u64,
}

impl Half {
    fn store(self) {
        for (index, byte) in self.value.to_le_bytes().iter().enumerate().take(self.bytes as usize) {
            self.at.host.offset(index).store(Width::Byte, u64::from(*byte));
        }
    }
}

/// Proof that a port makes no access, since it is borrowed. Dropped, the port is awake.
#[must_use = "a port rests as long as this lives"]
pub struct Resting<'p>(&'p Line);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl<'b> Window<'b> {
    pub(super) fn new(hub: &'b Hub) -> Self {
        Self { hub, line: hub.join(), way: hub.way() }
    }

    #[inline]
    pub(super) fn epoch(&self) -> u64 {
        self.hub.epoch()
    }

    /// A shoot-down passes over ports that rest, as over a vCPU that is not in its guest.
    pub(super) fn rest(&mut self) -> Resting<'_> {
        self.line.rest();
        Resting(&self.line)
    }

    /// `None`: the translation is stale, and nothing happened. The same below.
    #[inline]
    pub(super) fn load(&self, at: Target, width: Width) -> Option<u64> {
        match self.way {
            Way::Restartable(sequence) => {
                sequence.load(self.hub.epoch_cell(), at.epoch, at.host, width)
            }
            Way::Waiting => self.announced(at, || at.host.load(width)),
        }
    }

    /// Stores the low bytes of `value`.
    #[inline]
    pub(super) fn store(&self, at: Target, width: Width, value: u64) -> Option<()> {
        match self.way {
            Way::Restartable(sequence) => {
                sequence.store(self.hub.epoch_cell(), at.epoch, at.host, width, value).then_some(())
            }
            Way::Waiting => self.announced(at, || at.host.store(width, value)),
        }
    }

    /// Stores to two pages: both parts under translations of the present epoch, or neither.
    pub(super) fn store_both(&self, one: Half, other: Half) -> Option<()> {
        let same_epoch = one.at.epoch == other.at.epoch;
        let both = || self.waited_for(one.at.epoch, || [one, other].map(Half::store));
        same_epoch.then(both).flatten().map(drop)
    }

    /// An access of more than one step. Whatever the way is, a shoot-down waits for it: no sequence has
    /// two commits.
    pub(super) fn waited_for<T>(&self, epoch: u64, access: impl FnOnce() -> T) -> Option<T> {
        self.line.open_window();
        self.hub.begin_long_access();
        let result = (self.hub.epoch() == epoch).then(access);
        self.line.close_window();
        self.hub.end_long_access();
        result
    }

    /// A store that dawdles between its look at the epoch and its commit.
    #[cfg(test)]
    pub(super) fn store_late(&self, at: Target, value: u64) -> Option<()> {
        match self.way {
            Way::Restartable(sequence) => {
                let epoch = self.hub.epoch_cell();
                sequence.store_late(epoch, at.epoch, at.host, value).then_some(())
            }
            Way::Waiting => self.announced(at, || {
                (0..200).for_each(|_| std::hint::spin_loop());
                at.host.store(Width::Double, value);
            }),
        }
    }

    /// What memory held.
    #[inline]
    pub(super) fn compare_exchange(
        &self,
        at: Target,
        width: Width,
        exchange: (u64, u64),
    ) -> Option<u64> {
        match self.way {
            Way::Restartable(sequence) => {
                sequence.compare_exchange(self.hub.epoch_cell(), at.epoch, at.host, width, exchange)
            }
            Way::Waiting => self.announced(at, || at.host.compare_exchange(width, exchange)),
        }
    }

    /// Copies a page out, entry by entry: a long copy as one sequence would never end under a
    /// storm of shoot-downs.
    pub(super) fn load_page(&self, at: Target, into: &mut [u32; 1024]) -> Option<()> {
        for (index, word) in into.iter_mut().enumerate() {
            let at = Target { host: at.host.offset(index * 4), ..at };
            *word = self.load(at, Width::Word)? as u32;
        }
        Some(())
    }

    /// Runs `walk` with the epoch that its results are of, announced for as long as it runs.
    #[inline]
    pub(super) fn walking<T>(&self, walk: impl FnOnce(u64) -> T) -> T {
        self.line.begin_walk(self.hub.epoch());
        self.hub.barrier_before_epoch();
        let result = walk(self.hub.epoch());
        self.line.end_walk();
        result
    }

    #[inline]
    fn announced<T>(&self, at: Target, access: impl FnOnce() -> T) -> Option<T> {
        self.line.open_window();
        self.hub.barrier_before_epoch();
        let result = (self.hub.epoch() == at.epoch).then(access);
        self.line.close_window();
        result
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.hub.leave(&self.line);
    }
}
