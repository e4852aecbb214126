//! Where the host has no restartable sequences, nothing of this type exists.

use crate::bus::Width;
use crate::port::HostAddress;
use std::sync::atomic::AtomicU64;

/// A way to access memory restartably: none on this host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sequence {}

impl Sequence {
    pub(crate) fn find() -> Option<Self> {
        None
    }

    pub(crate) fn load(self, _: &AtomicU64, _: u64, _: HostAddress, _: Width) -> Option<u64> {
        match self {}
    }

    pub(crate) fn store(self, _: &AtomicU64, _: u64, _: HostAddress, _: Width, _: u64) -> bool {
        match self {}
    }

    #[cfg(test)]
    pub(crate) fn store_late(self, _: &AtomicU64, _: u64, _: HostAddress, _: u64) -> bool {
        match self {}
    }

    pub(crate) fn compare_exchange(
        self,
        _: &AtomicU64,
        _: u64,
        _: HostAddress,
        _: Width,
        _: (u64, u64),
    ) -> Option<u64> {
        match self {}
    }
}
