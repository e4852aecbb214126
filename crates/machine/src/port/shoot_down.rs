//! Making every cached translation of every port stale, and knowing that no access under one is
//! still on its way.

use super::line::Line;
use crate::frames::Walks;
use crate::rseq::{Sequence, membarrier};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a shoot-down reaches an access that has looked at the epoch and not yet stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShootDown {
    /// Accesses are restartable sequences, and the requester has the kernel restart them: as an
    /// inter-processor interrupt does, and it waits for nobody but stores across two pages. Linux on
    /// x86-64 only.
    Restartable,
    /// Accesses announce themselves and the requester waits them out, preempted ones too.
    Waiting,
}

impl ShootDown {
    /// The better one of those that this host offers.
    #[must_use]
    pub fn best() -> Self {
        if Sequence::find().is_some() { Self::Restartable } else { Self::Waiting }
    }
}

/// A [`ShootDown`] that this host offers, with what it needs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Restartable(Sequence),
    Waiting,
}

/// What the ports of a board share.
#[derive(Debug)]
pub(crate) struct Hub {
    epoch: Epoch,
    lines: Mutex<Vec<Arc<Line>>>,
    way: Way,
    long_accesses: LongAccesses,
}

/// How many accesses of more than one step are under way. On lines of its own: hardly ever written,
/// and read by every shoot-down.
#[derive(Debug)]
#[repr(align(128))]
struct LongAccesses(AtomicUsize);

/// On lines of its own: every access reads it.
#[derive(Debug)]
#[repr(align(128))]
struct Epoch(AtomicU64);

impl Hub {
    /// `None` where the host does not offer `shoot_down`.
    pub(crate) fn new(shoot_down: ShootDown) -> Option<Self> {
        let way = match shoot_down {
            ShootDown::Restartable => Way::Restartable(Sequence::find()?),
            ShootDown::Waiting => Way::Waiting,
        };
        Some(Self {
            epoch: Epoch(AtomicU64::new(1)),
            lines: Mutex::default(),
            way,
            long_accesses: LongAccesses(AtomicUsize::new(0)),
        })
    }

    /// On return, no access commits under a translation that was cached before the call.
    pub(crate) fn shoot_down(&self) {
        self.begin_epoch();
        if self.all_rest() {
            return;
        }
        match self.way {
            Way::Restartable(_) => {
                membarrier::restart_sequences();
                self.wait_for_long_accesses();
            }
            Way::Waiting => self.wait_for_windows(),
        }
    }

    /// The first half of a shoot-down, which leaves accesses in flight alone.
    pub(super) fn begin_epoch(&self) {
        // SeqCst: an access's window and the epoch are a store and a load crosswise on each side;
        // the partner is the fence in `barrier_before_epoch`.
        self.epoch.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Acquire: who sees an epoch sees the tables as they were when it began.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.0.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn epoch_cell(&self) -> &AtomicU64 {
        &self.epoch.0
    }

    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// Between announcing something on a [`Line`] and looking at the epoch: either whoever begins
    /// a new epoch sees the announcement, or we see the epoch.
    #[inline]
    pub(super) fn barrier_before_epoch(&self) {
        match self.way {
            // The requester's membarrier is the fence on this side as well: it interrupts every
            // thread that runs, and the return from an interrupt serialises (Intel SDM vol. 3A,
            // 9.3; AMD APM vol. 2, 7.6.4); one that does not run passes the scheduler's barriers.
            Way::Restartable(_) => std::sync::atomic::compiler_fence(Ordering::SeqCst),
            Way::Waiting => fence(Ordering::SeqCst),
        }
    }

    /// Between announcing on a [`Line`] an access that no sequence can be, and looking at the epoch.
    /// The fence and the one in `all_rest` stand crosswise: either whoever begins a new epoch sees
    /// the count, and with it the announcement, or we see the epoch.
    pub(super) fn begin_long_access(&self) {
        // Release: the window on the line is open. Its partner is the acquire in
        // `wait_for_long_accesses`.
        self.long_accesses.0.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Release: the access happened before; its partner is the same acquire.
    pub(super) fn end_long_access(&self) {
        self.long_accesses.0.fetch_sub(1, Ordering::Release);
    }

    pub(super) fn join(&self) -> Arc<Line> {
        let line = Arc::new(Line::new());
        self.lines().push(Arc::clone(&line));
        line
    }

    pub(super) fn leave(&self, line: &Arc<Line>) {
        self.lines().retain(|other| !Arc::ptr_eq(other, line));
    }

    /// Whether no port can be in an access that began before the epoch did.
    fn all_rest(&self) -> bool {
        // The partner is the fence in `Line::wake`.
        fence(Ordering::SeqCst);
        self.lines().iter().all(|line| line.is_resting())
    }

    /// Where accesses are sequences, only long ones have windows.
    fn wait_for_long_accesses(&self) {
        if self.long_accesses.0.load(Ordering::Acquire) != 0 {
            self.wait_for_windows();
        }
    }

    fn wait_for_windows(&self) {
        fence(Ordering::SeqCst);
        // A port that joins later begins with the new epoch, so the list is complete.
        let lines = self.lines().clone();
        lines.iter().for_each(|line| line.wait_for_window());
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walks for Hub {
    fn now(&self) -> u64 {
        self.epoch()
    }

    fn oldest(&self) -> u64 {
        self.lines().iter().map(|line| line.walking()).min().unwrap_or(u64::MAX)
    }
}
