//! The log of this process's memory.

mod tracked;
mod vacancy;

use crate::calls::Faults;
use crate::capabilities::{self, Capabilities, Facility, LOG_FEATURES, Missing};
use crate::error::ProcessError;
use crate::mapping::{Aliased, Mapping};
use core::any::Any;
use core::fmt;
use tracked::Tracked;
use vellum_memory::{DirtySource, Layout, LogState, PageSet};

/// Which pages of mappings of this process were written, as a [`DirtySource`].
///
/// `collect` takes each page that was written through the mapping, by any thread or by the kernel for
/// one, or whose content was given back to the system, and protects it again; `protect` has nothing to
/// do. A page is named only if that is so: reading marks none. After an error all pages of the region
/// are named.
///
/// Stopping or dropping it leaves the memory as it was before. `docs/process.md` says what it does not
/// see.
pub struct ProcessLog {
    tracked: Tracked,
    layout: Layout,
    owed: PageSet,
    state: LogState,
    /// What keeps the mappings; dropped after `tracked`.
    keeps: Option<Box<dyn Any + Send + Sync>>,
}

impl ProcessLog {
    /// A log of `mappings`, which has not started.
    ///
    /// # Safety
    /// M: the bytes of each mapping lie in this process's memory where it says, and nobody unmaps,
    /// moves or maps anything over them as long as the log is there.
    ///
    /// # Errors
    /// [`ProcessError`]: something is missing, or the mappings are no layout.
    #[allow(unsafe_code)]
    pub unsafe fn new(mappings: Vec<Mapping>) -> Result<Self, ProcessError> {
        let layout = Layout::new(mappings.iter().map(Mapping::region).collect())?;
        Aliased::none_of(&mappings)?;
        Capabilities::of_this_process().supports(Facility::Log)?;
        let faults = capabilities::open(Faults::OfThreads)?;
        capabilities::agree(&faults, LOG_FEATURES, Missing::AsyncWriteProtection)?;
        let pagemap = capabilities::pagemap()?;
        let vacancies = vacancy::vacancies(&pagemap);
        // SAFETY: M, as the caller promises.
        let tracked = unsafe { Tracked::new(faults, pagemap, mappings, vacancies) };
        let owed = PageSet::new(&layout);
        Ok(Self { tracked, layout, owed, state: LogState::Off, keeps: None })
    }

    /// The same, and `memory` stays as long.
    #[cfg(feature = "vm-memory")]
    pub(crate) fn keeping(self, memory: impl Any + Send + Sync) -> Self {
        Self { keeps: Some(Box::new(memory)), ..self }
    }

    fn take(&mut self, round: &mut PageSet) -> Result<(), ProcessError> {
        for (index, set) in round.regions_mut().iter_mut().enumerate() {
            if let Err(error) = self.tracked.take(index, set) {
                self.owed.regions_mut()[index].fill();
                return Err(error);
            }
        }
        Ok(())
    }
}

impl DirtySource for ProcessLog {
    type Error = ProcessError;

    fn method(&self) -> &'static str {
        "userfaultfd"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A log that is on begins anew.
    fn start(&mut self) -> Result<(), ProcessError> {
        self.tracked.is_ours()?;
        self.state = LogState::Off;
        self.owed.clear();
        if let Err(error) = self.tracked.stop().and_then(|()| self.tracked.start()) {
            // What stopping says adds nothing. Where it fails, the next one tries again.
            let _ = self.tracked.stop();
            return Err(error);
        }
        self.state = LogState::On;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), ProcessError> {
        self.tracked.stop()?;
        self.state = LogState::Off;
        Ok(())
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), ProcessError> {
        self.tracked.is_ours()?;
        self.state.may_add(round, &self.layout)?;
        if let Err(error) = self.take(round) {
            self.owed.merge(round);
            return Err(error);
        }
        round.merge(&self.owed);
        self.owed.clear();
        Ok(())
    }

    /// Pages over another layout are ignored.
    fn owe(&mut self, pages: &PageSet) {
        if pages.is_over(&self.layout) {
            self.owed.merge(pages);
        }
    }
}

impl fmt::Debug for ProcessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessLog")
            .field("state", &self.state)
            .field("keeps", &self.keeps.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
