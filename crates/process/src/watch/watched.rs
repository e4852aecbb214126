//! Mappings under write-protection that somebody answers for.
#![allow(unsafe_code)]

use super::WatchError;
use super::whole::Whole;
use crate::calls::{self, Protection, again};
use crate::error::Call;
use crate::mapping::Mapping;
use rustix::process::{Pid, getpid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vellum_memory::{GfnRange, PAGE_SIZE};

/// Mappings that are registered with a userfaultfd, and that.
pub(super) struct Watched {
    faults: OwnedFd,
    mappings: Vec<Whole>,
    owner: Pid,
}

impl Watched {
    /// # Safety
    /// M: the bytes of each mapping are mapped where it says, and stay so as long as this is there.
    pub(super) unsafe fn new(faults: OwnedFd, mappings: Vec<Mapping>) -> Result<Self, WatchError> {
        let registered = Vec::with_capacity(mappings.len());
        let mut watched = Self { faults, mappings: registered, owner: getpid() };
        for mapping in mappings {
            // SAFETY: M, as the caller promises.
            let made = again(|| unsafe { calls::register(&watched.faults, &mapping.bytes()) })
                .map_err(|source| refused(Call::Register, &mapping, source))?;
            let place = watched.mappings.len();
            watched.mappings.push(Whole { mapping, page: PAGE_SIZE });
            watched.mappings[place] = Whole::of(&watched.faults, mapping, made)?;
        }
        Ok(watched)
    }

    pub(super) fn mappings(&self) -> &[Whole] {
        &self.mappings
    }

    pub(super) fn set(
        &self,
        region: usize,
        range: GfnRange,
        to: Protection,
    ) -> Result<(), WatchError> {
        self.is_ours()?;
        let whole = self.mappings.get(region).ok_or(WatchError::NoRegion(region))?;
        let Some(bytes) = whole.bytes_of(range) else { return Ok(()) };
        again(|| calls::write_protect(&self.faults, &bytes, to))
            .map_err(|source| refused(Call::WriteProtect, &whole.mapping, source))
    }

    /// Whether this process made it. Its descriptor is about the memory of the one that did.
    pub(super) fn is_ours(&self) -> Result<(), WatchError> {
        if self.owner == getpid() { Ok(()) } else { Err(WatchError::Forked) }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.faults.as_fd()
    }
}

/// Unregistering wakes nobody, and closing the descriptor does only if no forked process has it too. In
/// a forked process, the registration is the other's, and stays.
impl Drop for Watched {
    fn drop(&mut self) {
        if self.is_ours().is_err() {
            return;
        }
        for whole in &self.mappings {
            let bytes = whole.mapping.bytes();
            // Where that fails, a forked process may keep the descriptor open, and the protection up.
            let _ = again(|| calls::unregister(&self.faults, &bytes))
                .or_else(|_| again(|| calls::write_protect(&self.faults, &bytes, Protection::Off)));
            let _ = again(|| calls::wake(&self.faults, &bytes));
        }
    }
}

fn refused(call: Call, mapping: &Mapping, source: io::Error) -> WatchError {
    WatchError::Refused { call, slot: mapping.region().slot, source }
}
