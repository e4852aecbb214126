//! Hearing of a write before it is made.

mod event;
mod watched;
mod whole;

use crate::calls::{Faults, Protection};
use crate::capabilities::{self, Capabilities, Facility, Missing, WATCH_FEATURES};
use crate::error::Call;
use crate::mapping::{Aliased, Mapping};
use core::any::Any;
use core::fmt;
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use vellum_memory::{GfnRange, Layout, LayoutError, SlotId};

pub use event::WriteEvent;
use watched::Watched;

/// Holds a writer up before its first write to a page, until somebody allows it.
///
/// [`protect`](Self::protect) says which pages. A write to one of them makes a [`WriteEvent`], and its
/// thread stands until [`allow`](Self::allow) takes the page's protection away and wakes it. After that
/// writes to the page go on unseen, until it is protected again. Reading is never held up. A private
/// page that is given back to the system (`MADV_DONTNEED`) loses its protection, and nobody says so:
/// protect it again.
///
/// Events are read by [`next`](Self::next) or [`wait`](Self::wait), from any thread but one that may
/// be held up itself: nobody would be left to allow it. The descriptor ([`AsFd`]) is readable when
/// there is an event, for a loop of the caller's.
///
/// Dropping it takes all protection away and wakes everybody who stands. A process that dies does so
/// with writers standing or not: the kernel holds nobody up who is to be killed.
pub struct WriteWatch {
    watched: Watched,
    layout: Layout,
    /// What keeps the mappings; dropped after `watched`.
    keeps: Option<Box<dyn Any + Send + Sync>>,
}

/// Who is held up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writers {
    /// Threads that write. **The kernel's writes to a protected page fail**: `read` into it is `EFAULT`.
    /// Every process may.
    Threads,
    /// The kernel too, where it writes for a thread: it stands inside of its system call. That is for
    /// the privileged: [`Missing::KernelFaults`] says who that is.
    ThreadsAndKernel,
}

/// Why a watch failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// This process is not given what it needs.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The mappings are no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Nor are they different memory.
    #[error(transparent)]
    Aliased(#[from] Aliased),
    /// A call about one region failed.
    #[error("{call} failed for region {}", slot.0)]
    Refused {
        /// Which call.
        call: Call,
        /// Of which region.
        slot: SlotId,
        /// What the kernel said.
        source: io::Error,
    },
    /// A region has pages of `hugetlbfs`, and others of another size.
    #[error("region {} has pages of several sizes: watch each as a region of its own", slot.0)]
    SeveralSizes {
        /// Which region.
        slot: SlotId,
    },
    /// There are not so many regions.
    #[error("there is no region {0}")]
    NoRegion(usize),
    /// Events cannot be read.
    #[error("the events of a userfaultfd cannot be read")]
    Unreadable(#[source] io::Error),
    /// The watch is over another process's memory.
    #[error("the watch is over the memory of the process that made it, not of one forked from it")]
    Forked,
}

impl WriteWatch {
    /// A watch over `mappings`, with no page protected.
    ///
    /// # Safety
    /// M: the bytes of each mapping lie in this process's memory where it says, and nobody unmaps,
    /// moves or maps anything over them as long as the watch is there.
    ///
    /// # Errors
    /// [`WatchError`]; nothing is watched.
    #[allow(unsafe_code)]
    pub unsafe fn new(mappings: Vec<Mapping>, writers: Writers) -> Result<Self, WatchError> {
        let layout = Layout::new(mappings.iter().map(Mapping::region).collect())?;
        Aliased::none_of(&mappings)?;
        Capabilities::of_this_process().supports(writers.facility())?;
        let faults = capabilities::open(writers.faults())?;
        capabilities::agree(&faults, WATCH_FEATURES, Missing::WriteProtection)?;
        // SAFETY: M, as the caller promises.
        let watched = unsafe { Watched::new(faults, mappings) }?;
        Ok(Self { watched, layout, keeps: None })
    }

    /// The same, and `memory` stays as long.
    #[cfg(feature = "vm-memory")]
    pub(crate) fn keeping(self, memory: impl Any + Send + Sync) -> Self {
        Self { keeps: Some(Box::new(memory)), ..self }
    }

    /// The regions it is over.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Holds up whoever writes to a page of `range` in region `region`, from now on. What of `range`
    /// is not in the region is ignored; pages that are larger than 4 KiB are protected whole.
    ///
    /// # Errors
    /// Some of the pages may be protected.
    pub fn protect(&self, region: usize, range: GfnRange) -> Result<(), WatchError> {
        self.watched.set(region, range, Protection::On)
    }

    /// Lets writes to the pages of `range` go on, and wakes who stands before one. Pages that are larger
    /// than 4 KiB are allowed whole.
    ///
    /// # Errors
    /// Some of the pages may still be protected.
    pub fn allow(&self, region: usize, range: GfnRange) -> Result<(), WatchError> {
        self.watched.set(region, range, Protection::Off)
    }

    /// The next event, if there is one now.
    ///
    /// # Errors
    /// [`WatchError::Unreadable`], or in a forked process.
    pub fn next(&self) -> Result<Option<WriteEvent>, WatchError> {
        self.watched.is_ours()?;
        loop {
            let mut message = [0; event::BYTES];
            match rustix::io::read(&self.watched, &mut message) {
                Ok(event::BYTES) => {}
                Ok(_) | Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(WatchError::Unreadable(error.into())),
            }
            if let Some(event) = WriteEvent::read(&message, self.watched.mappings()) {
                return Ok(Some(event));
            }
        }
    }

    /// The next event, waiting for it as long as `patience`; for ever without one. None also where a
    /// signal came, or another thread was faster.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn wait(&self, patience: Option<Duration>) -> Result<Option<WriteEvent>, WatchError> {
        if let Some(event) = self.next()? {
            return Ok(Some(event));
        }
        // What is longer than a timespec can say is for ever.
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut ready = [PollFd::new(&self.watched, PollFlags::IN)];
        match poll(&mut ready, patience.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(None),
            Ok(_) => self.next(),
            Err(error) => Err(WatchError::Unreadable(error.into())),
        }
    }
}

impl Writers {
    fn faults(self) -> Faults {
        match self {
            Self::Threads => Faults::OfThreads,
            Self::ThreadsAndKernel => Faults::OfKernelToo,
        }
    }

    fn facility(self) -> Facility {
        match self {
            Self::Threads => Facility::WatchThreads,
            Self::ThreadsAndKernel => Facility::WatchKernelToo,
        }
    }
}

impl AsFd for WriteWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}

impl fmt::Debug for WriteWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteWatch")
            .field("layout", &self.layout)
            .field("keeps", &self.keeps.is_some())
            .finish_non_exhaustive()
    }
}
