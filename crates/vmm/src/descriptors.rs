//! The kernel's descriptors of a machine, for who makes calls of his own.
#![allow(unsafe_code)]

use crate::machine::Machine;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

impl Machine {
    /// The VM's descriptor. A call that changes memslots, or how they are logged, is not for it: their
    /// log relies on them.
    #[must_use]
    pub fn vm(&self) -> BorrowedFd<'_> {
        // SAFETY: the machine owns the descriptor, and closes it after this borrow.
        unsafe { BorrowedFd::borrow_raw(self.vm_fd().as_raw_fd()) }
    }

    /// Another descriptor of the vCPU with this number, which the machine has. Waits until it is out
    /// of the guest: pause before.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    ///
    /// # Panics
    /// There is no such vCPU.
    pub fn vcpu(&self, number: usize) -> io::Result<OwnedFd> {
        self.with_vcpu(number, |fd| {
            // SAFETY: whoever lends `fd` owns the descriptor, until it has been duplicated.
            unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }.try_clone_to_owned()
        })
    }
}
