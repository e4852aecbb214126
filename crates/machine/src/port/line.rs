//! A port's own cache line: what it is doing, for others to see.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// No walk is under way: later than every epoch.
const NOT_WALKING: u64 = u64::MAX;

/// Written by its port only. Two lines' worth, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Line {
    /// Odd while an access is between looking at the epoch and its commit.
    window: AtomicU64,
    /// The epoch of the walk under way, or an earlier one.
    walking: AtomicU64,
    /// The port makes no access now.
    resting: AtomicBool,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            window: AtomicU64::new(0),
            walking: AtomicU64::new(NOT_WALKING),
            resting: AtomicBool::new(false),
        }
    }

    /// Announces an access. The port fences before it looks at the epoch.
    #[inline]
    pub(super) fn open_window(&self) {
        self.window.store(self.window.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Release: the access happened before; its partner is the acquire in
    /// [`wait_for_window`](Self::wait_for_window).
    #[inline]
    pub(super) fn close_window(&self) {
        self.window.store(self.window.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Announces that there is no access until [`wake`](Self::wake). Release: those there were
    /// happened before; its partner is the acquire in [`is_resting`](Self::is_resting).
    pub(super) fn rest(&self) {
        self.resting.store(true, Ordering::Release);
    }

    /// The fence stands between this and the next access's look at the epoch. Its partner is the
    /// one in `Hub::all_rest`: whoever begins an epoch sees the port awake, or the port sees the
    /// epoch.
    pub(super) fn wake(&self) {
        self.resting.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Acquire)
    }

    /// Returns when the access announced now, if any, is over.
    pub(super) fn wait_for_window(&self) {
        let seen = self.window.load(Ordering::Acquire);
        let is_open = seen % 2 == 1;
        while is_open && self.window.load(Ordering::Acquire) == seen {
            std::thread::yield_now();
        }
    }

    /// Announces a walk that began no earlier than `epoch`.
    #[inline]
    pub(super) fn begin_walk(&self, epoch: u64) {
        self.walking.store(epoch, Ordering::Relaxed);
    }

    /// Release: the walk's last access to a table happened before; its partner is the acquire in
    /// [`walking`](Self::walking).
    #[inline]
    pub(super) fn end_walk(&self) {
        self.walking.store(NOT_WALKING, Ordering::Release);
    }

    /// No walk of this port is of an epoch before this.
    pub(super) fn walking(&self) -> u64 {
        self.walking.load(Ordering::Acquire)
    }
}
