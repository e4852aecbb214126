//! The kernel's descriptors of a machine, for who makes calls of his own.
#![allow(unsafe_code)]

use crate::ram::Ram;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Another descriptor of a machine's VM or of one of its vCPUs. It keeps the VM, and with it the memory
/// that its memslots name. What is made of it by duplicating keeps the VM only: it must not be there
/// longer than this.
pub struct Descriptor {
    // Before the memory.
    fd: OwnedFd,
    _ram: Arc<Ram>,
}

impl Descriptor {
    pub(crate) fn of(owner: &impl AsRawFd, ram: &Arc<Ram>) -> io::Result<Self> {
        // SAFETY: `owner` owns the descriptor, and is borrowed until it has been duplicated.
        let borrowed = unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) };
        Ok(Self { fd: borrowed.try_clone_to_owned()?, _ram: Arc::clone(ram) })
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
